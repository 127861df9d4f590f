-- Day partitions of tables that are partitioned by range on window_start.
--
-- The program calls these two, for any output table. They run with the rights of their owner, so that
-- the role of the program needs to own nothing.

-- Makes the partition of a day (UTC) unless there is one, and moves the day's rows out of the default
-- partition. False where the day is covered already.
--
-- The new table is filled first and then attached: ATTACH lets readers and writers of the parent go on,
-- which CREATE TABLE .. PARTITION OF does not. Only the default partition is locked, for which the
-- caller sets a short lock_timeout and tries again later; until then its rows are found there.
CREATE FUNCTION headwater_add_day(parent regclass, day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
AS $$
DECLARE
    parent_name   text;
    schema_name   text;
    partition     text;
    default_table regclass;
    lower_bound   timestamptz := day::timestamp AT TIME ZONE 'UTC';
    upper_bound   timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    SELECT c.relname, n.nspname, nullif(p.partdefid, 0)::regclass INTO STRICT parent_name, schema_name, default_table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_partitioned_table p ON p.partrelid = c.oid
    WHERE c.oid = parent;
    -- One maker at a time for a table.
    PERFORM pg_advisory_xact_lock(hashtextextended('headwater.days', parent::oid::bigint));
    IF EXISTS (
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid),
            'FROM \((?:''([^'']+)''|MINVALUE)\) TO \((?:''([^'']+)''|MAXVALUE)\)') AS bounds
        WHERE i.inhparent = parent AND bounds IS NOT NULL
          AND coalesce(bounds[1]::timestamptz, '-infinity') < upper_bound
          AND coalesce(bounds[2]::timestamptz, 'infinity') > lower_bound
    ) THEN
        RETURN false;
    END IF;
    partition := format('%I.%I', schema_name, left(parent_name, 54) || '_' || to_char(day, 'YYYYMMDD'));
    -- A row is written several times before it is final: room on the page keeps its indexes untouched.
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL) WITH (fillfactor = 70)', partition, parent);
    IF default_table IS NOT NULL THEN
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', default_table);
        EXECUTE format(
            'WITH moved AS (DELETE FROM %s WHERE window_start >= $1 AND window_start < $2 RETURNING *)
             INSERT INTO %s SELECT * FROM moved', default_table, partition) USING lower_bound, upper_bound;
    END IF;
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
        parent, partition, lower_bound, upper_bound);
    RETURN true;
END
$$;

-- Drops one partition that ends at or before `before`, and deletes what is older from the default
-- partition. Gives the name of the dropped one; null when none is left. One at a time, because it locks
-- the parent: the caller sets a short lock_timeout. A partition of another owner is theirs to drop.
CREATE FUNCTION headwater_drop_day(parent regclass, before timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
AS $$
DECLARE
    expired       regclass;
    default_table regclass;
    dropped       text;
BEGIN
    SELECT nullif(partdefid, 0)::regclass INTO STRICT default_table FROM pg_partitioned_table WHERE partrelid = parent;
    SELECT c.oid::regclass INTO expired
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)') AS bounds
    WHERE i.inhparent = parent AND bounds[1]::timestamptz <= before AND pg_has_role(c.relowner, 'USAGE')
    ORDER BY bounds[1]::timestamptz LIMIT 1;
    IF expired IS NULL THEN
        IF default_table IS NOT NULL THEN
            EXECUTE format('DELETE FROM %s WHERE window_start < $1', default_table) USING before;
        END IF;
        RETURN NULL;
    END IF;
    dropped := expired::text;
    EXECUTE format('DROP TABLE %s', expired);
    RETURN dropped;
END
$$;

REVOKE ALL ON FUNCTION headwater_add_day(regclass, date), headwater_drop_day(regclass, timestamptz) FROM PUBLIC;
