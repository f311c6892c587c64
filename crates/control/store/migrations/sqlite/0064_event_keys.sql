-- The keys under which stored content was encrypted: names only. A server without one of them does not start.

CREATE TABLE event_keys (
    id         TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);
