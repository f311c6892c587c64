-- Skills, their versions, and which sessions were given which. Instants are microseconds since 1970; JSON is text.

CREATE TABLE skills (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    -- Also the directory that sessions see it in.
    name         TEXT NOT NULL,
    display_name TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX skills_by_name ON skills (workspace_id, name);
CREATE INDEX skills_by_age ON skills (workspace_id, created_at, id);

CREATE TABLE skill_versions (
    id          TEXT NOT NULL PRIMARY KEY,
    skill_id    TEXT NOT NULL REFERENCES skills (id) ON DELETE CASCADE,
    -- Counts up in its skill: the highest is the latest.
    number      BIGINT NOT NULL,
    description TEXT NOT NULL,
    -- The archive.
    blob_id     TEXT NOT NULL REFERENCES blobs (id),
    size_bytes  BIGINT NOT NULL,
    created_at  BIGINT NOT NULL
);
CREATE UNIQUE INDEX skill_versions_by_number ON skill_versions (skill_id, number);
CREATE INDEX skill_versions_by_blob ON skill_versions (blob_id);

-- What a worker may fetch. A version that is deleted stays named here: its session was given it.
CREATE TABLE session_skills (
    session_id       TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    skill_version_id TEXT NOT NULL,
    PRIMARY KEY (session_id, skill_version_id)
);
CREATE INDEX session_skills_by_version ON session_skills (skill_version_id);

-- What the session's model is told of its skills.
ALTER TABLE sessions ADD COLUMN skills TEXT NOT NULL DEFAULT '[]';
