-- The outcomes of a session, as it shows them. JSON is text.

ALTER TABLE sessions ADD COLUMN outcome_evaluations TEXT NOT NULL DEFAULT '[]';
