-- Whose a table of windows is, and from when on a job that began anew writes it.

ALTER TABLE analyze_jobs
    -- "schema"."table" of the job's windows. Two jobs on one table would overwrite each other's rows.
    ADD COLUMN output text UNIQUE,
    -- Windows that begin earlier are left as they are: when the job began anew (headwater reset), the
    -- topics no longer held all of their records.
    ADD COLUMN windows_from timestamptz;
