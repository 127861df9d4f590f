-- The questions that people ask of the chat. docs/views.md shows how each is answered.

-- The newest final window of each stream, however long ago that was.
--
-- PostgreSQL has no skip scan: the recursion jumps from stream to stream by the primary key, which costs
-- one look per stream and day instead of one per row. Most streams have a row of the last day, which is
-- looked for first; only for the others are the older days opened.
CREATE VIEW chat_latest AS
WITH RECURSIVE streams AS (
    (SELECT stream_id FROM chat_summary_minute ORDER BY stream_id LIMIT 1)
  UNION ALL
    SELECT (SELECT c.stream_id FROM chat_summary_minute c WHERE c.stream_id > s.stream_id ORDER BY c.stream_id LIMIT 1)
    FROM streams s WHERE s.stream_id IS NOT NULL
)
SELECT latest.* FROM streams s CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT * FROM chat_summary_minute c
         WHERE c.stream_id = s.stream_id AND c.is_final AND c.window_start >= now() - interval '1 day'
         ORDER BY c.window_start DESC LIMIT 1)
      UNION ALL
        (SELECT * FROM chat_summary_minute c
         WHERE c.stream_id = s.stream_id AND c.is_final AND c.window_start < now() - interval '1 day'
           AND NOT EXISTS (SELECT FROM chat_summary_minute r WHERE r.stream_id = s.stream_id AND r.is_final
                           AND r.window_start >= now() - interval '1 day')
         ORDER BY c.window_start DESC LIMIT 1)
    ) AS either LIMIT 1
) AS latest;

-- The last hour of each stream by windows that do not overlap: with the shipped minute, 60 rows. The
-- newest are provisional (is_final).
CREATE VIEW chat_last_hour AS
SELECT * FROM chat_summary_minute
WHERE date_bin(window_end - window_start, window_start, '1970-01-01 00:00:00+00') = window_start
  AND window_start >= now() - interval '1 hour' AND window_start <= now();

-- The ten emotes that each stream used most in the last hour.
CREATE VIEW chat_top_emotes_hour AS
SELECT stream_id, emote, uses, rank FROM (
    SELECT stream_id, emote, uses, row_number() OVER (PARTITION BY stream_id ORDER BY uses DESC, emote) AS rank
    FROM (
        SELECT h.stream_id, e.key AS emote, sum(e.value::bigint)::bigint AS uses
        FROM chat_last_hour h CROSS JOIN LATERAL jsonb_each_text(h.emote_counts) AS e
        GROUP BY h.stream_id, e.key
    ) AS totals
) AS ranked
WHERE rank <= 10;

-- Today begins at midnight in the time zone of the session that asks.
CREATE VIEW moments_today AS
SELECT * FROM moments WHERE window_start >= date_trunc('day', now());
