-- Webhooks, and what each is still to be told: noted in the transaction of what happened, so that neither is without the other.
-- Instants are microseconds since 1970.

CREATE TABLE webhooks (
    workspace_id      TEXT   NOT NULL,
    id                TEXT   NOT NULL PRIMARY KEY,
    url               TEXT   NOT NULL,
    description       TEXT,
    -- A JSON array of event types.
    enabled_events    TEXT   NOT NULL,
    state             TEXT   NOT NULL,
    disabled_reason   TEXT,
    -- Its secret is derived from this and the server's key.
    secret_generation BIGINT NOT NULL,
    -- Until then what is posted is signed with the secret before, too.
    former_until      BIGINT,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL
);
CREATE INDEX webhooks_by_age ON webhooks (workspace_id, created_at, id);

-- The same types, one row each; '*' for every one.
CREATE TABLE webhook_subscriptions (
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_type TEXT NOT NULL,
    PRIMARY KEY (webhook_id, event_type)
);

CREATE TABLE webhook_deliveries (
    workspace_id TEXT   NOT NULL,
    webhook_id   TEXT   NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id     TEXT   NOT NULL,
    -- What is posted, to the byte.
    payload      TEXT   NOT NULL,
    state        TEXT   NOT NULL,
    attempts     BIGINT NOT NULL,
    -- When a pending one is due.
    next_at      BIGINT,
    last_error   TEXT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (webhook_id, event_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (state, next_at);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (webhook_id, created_at, event_id);
