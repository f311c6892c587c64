-- When the session of an item was deleted. The item says nothing of it any more, and goes a day later with its tokens.

ALTER TABLE work ADD COLUMN gone_at BIGINT;
CREATE INDEX work_by_gone ON work (gone_at) WHERE gone_at IS NOT NULL;
UPDATE work SET failure = NULL, metadata = '{}', worker = NULL, home = NULL, gone_at = COALESCE(stopped_at, created_at)
WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = work.session_id);
