-- The run of a workflow that created a thread; null for any other.
ALTER TABLE threads ADD COLUMN workflow_run_id TEXT;
