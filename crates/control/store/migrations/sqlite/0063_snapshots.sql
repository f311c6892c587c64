-- What a session's log has come to at one of its events, so that only what follows has to be read. A cache: the log says the
-- same, and a row that does not fit it is of no use.

CREATE TABLE session_snapshots (
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    -- The build's fold that it is of.
    fold         TEXT NOT NULL,
    -- The last event that it holds.
    seq          BIGINT NOT NULL,
    event_id     TEXT NOT NULL,
    -- SHA-256 of session, fold, place and state.
    digest       TEXT NOT NULL,
    state        TEXT NOT NULL
);
