-- The run of a workflow that created a thread; null for any other.
ALTER TABLE threads ADD COLUMN workflow_run_id TEXT;

-- When the first lifetime of a session's open runs is over; null where none is open.
ALTER TABLE sessions ADD COLUMN lapses_at BIGINT;
CREATE INDEX sessions_by_lapse ON sessions (lapses_at) WHERE lapses_at IS NOT NULL;
