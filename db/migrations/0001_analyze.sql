-- What analyze writes, and where it stands.
--
-- Applied by the program, in the schema that comes first in the connection's search_path. Progress and
-- data are written by one transaction, so they stand in one database.

-- One row for each job. `epoch` is taken anew by each instance that begins to lead: a flush that names
-- an older one changes nothing. `flushes` counts the committed flushes, so that an instance that lost
-- its connection during COMMIT can read whether that flush is in. Deleting a job's row makes it begin
-- anew at the start of its topics.
CREATE TABLE analyze_jobs (
    job         text PRIMARY KEY,
    epoch       bigint NOT NULL,
    flushes     bigint NOT NULL DEFAULT 0,
    watermark   timestamptz,
    -- What the windows are made of. Open windows cannot be gone on with under another one.
    declaration text,
    -- Who took the epoch: host, process, session. For people; the advisory lock decides.
    holder      text NOT NULL,
    held_since  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- `next_offset` is where reading goes on, `replay_offset` the offset of the oldest open pane, where
-- reading begins again after a restart.
CREATE TABLE analyze_partitions (
    job           text NOT NULL REFERENCES analyze_jobs ON DELETE CASCADE,
    topic         text NOT NULL,
    partition     integer NOT NULL,
    -- Kafka's id of the topic: another one means that it was deleted and made again.
    topic_id      text NOT NULL,
    next_offset   bigint NOT NULL,
    replay_offset bigint NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, topic, partition),
    CHECK (replay_offset BETWEEN 0 AND next_offset)
);

-- Chat by stream and sliding minute.
CREATE TABLE chat_summary_minute (
    stream_id       text NOT NULL,
    window_start    timestamptz NOT NULL,
    window_end      timestamptz NOT NULL,
    chat_count      bigint NOT NULL,
    unique_chatters bigint NOT NULL,
    -- -1 to 1.
    avg_sentiment   double precision,
    positive_count  bigint NOT NULL,
    negative_count  bigint NOT NULL,
    top_emotes      text[] NOT NULL,
    emote_counts    jsonb NOT NULL,
    -- Messages a second.
    chat_rate       double precision NOT NULL,
    -- Null where no viewer event fell into the window.
    avg_viewers     double precision,
    -- False while the window is still open.
    is_final        boolean NOT NULL,
    -- Raised by each change after the row became final.
    revision        integer NOT NULL,
    -- Whether unique_chatters is an estimate.
    approximate     boolean NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_id, window_start),
    CHECK (window_start < window_end)
) PARTITION BY RANGE (window_start);

-- Takes the rows of days that have no partition: far from today, or not made yet. So a row never waits
-- for a partition, and a producer with a broken clock makes none. See headwater_add_day.
CREATE TABLE chat_summary_minute_default PARTITION OF chat_summary_minute DEFAULT;

-- The windows that do not overlap: every sixth of those that slide by 10 s. date_bin cuts time into
-- pieces of the window's own size, so this holds for any size.
CREATE INDEX chat_summary_minute_apart ON chat_summary_minute (window_start)
    WHERE date_bin(window_end - window_start, window_start, '1970-01-01 00:00:00+00') = window_start;

-- Anomalies. The id is made from what the moment is about, so that finding it again adds nothing.
CREATE TABLE moments (
    moment_id    text PRIMARY KEY,
    moment_type  text NOT NULL,
    stream_id    text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    metric       text NOT NULL,
    value        double precision NOT NULL,
    baseline     double precision NOT NULL,
    score        double precision NOT NULL,
    threshold    double precision NOT NULL,
    detected_at  timestamptz NOT NULL,
    details      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX moments_by_window ON moments (window_start);
CREATE INDEX moments_by_stream ON moments (stream_id, moment_type, window_start);

-- Events that came too late to count, by the window that they missed.
CREATE TABLE late_events (
    job          text NOT NULL,
    topic        text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    event_count  bigint NOT NULL,
    first_seen   timestamptz NOT NULL,
    last_seen    timestamptz NOT NULL,
    PRIMARY KEY (job, topic, window_start, window_end)
);
CREATE INDEX late_events_by_last_seen ON late_events (last_seen);

-- Records that are no events, with their exact bytes.
CREATE TABLE dead_letters (
    job             text NOT NULL,
    -- Null for a tombstone.
    raw_payload     bytea,
    -- The same as text, where it is UTF-8 without a NUL character.
    raw_text        text,
    topic           text NOT NULL,
    error_reason    text NOT NULL,
    error_detail    text NOT NULL,
    error_ts        timestamptz NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset    bigint NOT NULL,
    kafka_timestamp timestamptz,
    key             bytea,
    -- A JSON array of [name, value in base64 or null], for names repeat and values are bytes.
    headers         text,
    -- A topic made again begins at offset 0 again: its records are others.
    topic_id        text NOT NULL,
    PRIMARY KEY (job, topic, kafka_partition, kafka_offset, topic_id)
);
CREATE INDEX dead_letters_by_time ON dead_letters (error_ts);
