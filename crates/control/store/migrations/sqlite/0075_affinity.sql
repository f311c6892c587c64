-- Whom an item was handed to last, and where its session's files are: with the worker that took the session last.
-- NULL where that has no name, or nobody did.

ALTER TABLE work ADD COLUMN worker TEXT;
ALTER TABLE work ADD COLUMN home TEXT;
CREATE INDEX work_by_worker ON work (environment_id, worker) WHERE state <> 'stopped';
