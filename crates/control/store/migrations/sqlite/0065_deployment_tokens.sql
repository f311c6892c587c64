-- Tokens of repositories that deployments keep for their runs: ciphertext, and what it is sealed to besides the row's own ids. One for
-- each repository. Gone when the deployment is archived.
CREATE TABLE deployment_tokens (
    workspace_id  TEXT NOT NULL,
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    id            TEXT NOT NULL PRIMARY KEY,
    host          TEXT NOT NULL,
    url           TEXT NOT NULL,
    sealed        TEXT NOT NULL,
    updated_at    BIGINT NOT NULL
);
CREATE UNIQUE INDEX deployment_tokens_by_url ON deployment_tokens (deployment_id, url);
CREATE INDEX deployment_tokens_by_workspace ON deployment_tokens (workspace_id);

-- Where a session of a run uses the deployment's token: of whose run it is told. Its own sealed one is null then, and both are null
-- once it has its own.
ALTER TABLE repository_tokens ADD COLUMN deployment_token_id TEXT;
ALTER TABLE repository_tokens ADD COLUMN run_id TEXT;
