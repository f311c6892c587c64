-- Threads beyond the primary one. Their events are in the session's one log; those that the session's own lists and streams
-- do not show are marked.
ALTER TABLE session_events ADD COLUMN in_session BOOLEAN NOT NULL DEFAULT TRUE;

-- The agent of a thread that works for another, and what each thread's part of the log comes to. Null for a primary thread as
-- long as it is alone: it does what its session does.
ALTER TABLE threads ADD COLUMN agent TEXT;
ALTER TABLE threads ADD COLUMN status TEXT;
ALTER TABLE threads ADD COLUMN progress TEXT;
ALTER TABLE threads ADD COLUMN updated_at BIGINT;
ALTER TABLE threads ADD COLUMN archived_at BIGINT;
