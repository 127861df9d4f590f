-- The last record that was read of a partition, and Kafka's number of the leadership under which it was written:
-- where the log holds another record there, brokers have lost the end of the log that was read. Of a log that has
-- grown again after that, `topic_id` is Kafka's id of the topic with "+" and a number behind it.
ALTER TABLE analyze_partitions
    ADD COLUMN last_offset  bigint,
    ADD COLUMN leader_epoch integer;
