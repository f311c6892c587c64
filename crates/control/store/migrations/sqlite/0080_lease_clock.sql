-- What leases are measured in: microseconds of time that passed while a server ran, noted with whatever is written in
-- them. One row. The wall's time stays in the columns that are shown.

CREATE TABLE lease_clock (
    id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    tick BIGINT NOT NULL
);

ALTER TABLE work RENAME COLUMN polled_at TO polled_tick;
ALTER TABLE work RENAME COLUMN lease_expires_at TO lease_end_tick;
ALTER TABLE work ADD COLUMN queued_tick BIGINT;
ALTER TABLE work ADD COLUMN started_tick BIGINT;
ALTER TABLE work ADD COLUMN stopped_tick BIGINT;
-- How far the session's log had come when the item stopped.
ALTER TABLE work ADD COLUMN stopped_place BIGINT;
UPDATE work SET queued_tick = queued_at, started_tick = started_at, stopped_tick = stopped_at;

DROP INDEX work_by_queue;
CREATE INDEX work_by_queue ON work (environment_id, state, queued_tick, id);
