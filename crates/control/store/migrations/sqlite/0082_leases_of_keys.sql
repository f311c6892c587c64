-- The environment key that an item was handed out to; null for tokens of before. The token ends with that key.
ALTER TABLE session_tokens ADD COLUMN environment_key_id TEXT;
