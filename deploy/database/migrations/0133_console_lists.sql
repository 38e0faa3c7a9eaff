-- The labels as a list of the console: a record's place in Kafka makes the order of a list total.

DO $$
DECLARE
    text_of text := pg_get_viewdef('score_labels'::regclass);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'score_labels'::regclass AND attname = 'kafka_offset') THEN
        -- A view may only get columns at its end, so its own text is continued.
        EXECUTE 'CREATE OR REPLACE VIEW score_labels AS ' || regexp_replace(text_of, 'l\.reason(\s+FROM)', 'l.reason, s.kafka_partition, s.kafka_offset\1');
    END IF;
END
$$;
COMMENT ON COLUMN score_labels.kafka_partition IS 'Partition of the score in its topic.';
COMMENT ON COLUMN score_labels.kafka_offset IS 'Offset of the score in its partition.';
