-- What requests that carried a key of their own were answered, for those that come again. Instants are microseconds since 1970.

CREATE TABLE request_answers (
    workspace_id TEXT NOT NULL,
    -- SHA-256 of workspace, caller, route and key.
    scope        TEXT NOT NULL PRIMARY KEY,
    -- SHA-256 of the key and of what was asked for.
    request      TEXT NOT NULL,
    answer       TEXT NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX request_answers_by_age ON request_answers (created_at);
