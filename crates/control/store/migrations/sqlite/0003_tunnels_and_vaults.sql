-- Tunnels, vaults and perimeters. Instants are microseconds since 1970; JSON is text.

CREATE TABLE tunnels (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    display_name TEXT,
    -- Never given to another tunnel, archived or not.
    domain       TEXT NOT NULL UNIQUE,
    created_at   BIGINT NOT NULL,
    archived_at  BIGINT
);
CREATE INDEX tunnels_by_age ON tunnels (workspace_id, created_at, id);

-- One row for each value that a tunnel's token has had; the latest generation is the current one. The value itself is
-- derived when it is shown.
CREATE TABLE tunnel_tokens (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    tunnel_id    TEXT NOT NULL REFERENCES tunnels (id),
    generation   BIGINT NOT NULL,
    digest       TEXT NOT NULL UNIQUE,
    -- What the caller gave as the reason for the rotation that made it.
    reason       TEXT,
    created_at   BIGINT NOT NULL,
    revoked_at   BIGINT
);
CREATE UNIQUE INDEX tunnel_tokens_by_generation ON tunnel_tokens (tunnel_id, generation);

CREATE TABLE tunnel_certificates (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    tunnel_id    TEXT NOT NULL REFERENCES tunnels (id),
    fingerprint  TEXT NOT NULL,
    pem          TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    archived_at  BIGINT
);
CREATE INDEX tunnel_certificates_by_age ON tunnel_certificates (tunnel_id, created_at, id);
CREATE UNIQUE INDEX tunnel_certificates_by_fingerprint ON tunnel_certificates (tunnel_id, fingerprint)
    WHERE archived_at IS NULL;

CREATE TABLE vaults (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    archived_at  BIGINT
);
CREATE INDEX vaults_by_age ON vaults (workspace_id, created_at, id);

CREATE TABLE vault_credentials (
    workspace_id   TEXT NOT NULL,
    id             TEXT NOT NULL PRIMARY KEY,
    vault_id       TEXT NOT NULL REFERENCES vaults (id) ON DELETE CASCADE,
    display_name   TEXT,
    metadata       TEXT NOT NULL,
    -- What the API shows of it; never a secret.
    auth           TEXT NOT NULL,
    -- Free again when the credential is archived.
    key            TEXT NOT NULL,
    -- What its secrets are sealed to. Authenticated with the ciphertext: an edited column makes them unopenable.
    kind           TEXT NOT NULL,
    hosts          TEXT NOT NULL,
    mcp_url        TEXT,
    token_endpoint TEXT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    archived_at    BIGINT
);
CREATE INDEX vault_credentials_by_age ON vault_credentials (vault_id, created_at, id);
CREATE UNIQUE INDEX vault_credentials_by_key ON vault_credentials (vault_id, key) WHERE archived_at IS NULL;

-- Ciphertext. Gone when its credential is archived.
CREATE TABLE credential_secrets (
    workspace_id  TEXT NOT NULL,
    credential_id TEXT NOT NULL REFERENCES vault_credentials (id) ON DELETE CASCADE,
    part          TEXT NOT NULL,
    sealed        TEXT NOT NULL,
    PRIMARY KEY (credential_id, part)
);

-- What they serve may be gone: then nothing is sealed to them any more.
CREATE TABLE perimeters (
    workspace_id   TEXT NOT NULL,
    id             TEXT NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL,
    public_key     TEXT NOT NULL,
    environment_id TEXT,
    tunnel_id      TEXT,
    created_at     BIGINT NOT NULL
);
CREATE INDEX perimeters_by_age ON perimeters (workspace_id, created_at, id);
CREATE UNIQUE INDEX perimeters_by_key ON perimeters (workspace_id, public_key);
