-- What a session may spend. JSON is text.

ALTER TABLE sessions ADD COLUMN budget TEXT;
