-- What an API key may do, and with which vaults. Keys from before may do everything.

ALTER TABLE api_keys ADD COLUMN role TEXT NOT NULL DEFAULT 'admin';
-- A JSON array of ids; null for every vault.
ALTER TABLE api_keys ADD COLUMN vault_ids TEXT;
