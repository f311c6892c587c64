-- What of an endpoint is due, in the order in which it is told: a backlog is not looked through for its first.

CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (webhook_id, state, next_at, created_at, event_id);
