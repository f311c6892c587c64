-- What a memory store keeps: the bytes of its texts, and 1 KiB for each version.

ALTER TABLE memory_stores ADD COLUMN kept_bytes BIGINT NOT NULL DEFAULT 0;
UPDATE memory_stores SET kept_bytes =
    (SELECT COALESCE(SUM(LENGTH(CAST(c.content AS BLOB))), 0) FROM memory_contents c WHERE c.memory_store_id = memory_stores.id)
    + 1024 * (SELECT COUNT(*) FROM memory_versions v WHERE v.memory_store_id = memory_stores.id);
