mod moments;
