-- Nothing comes into a workspace that was erased: whoever was admitted before may still write after it. A table of workspaces
-- without such a trigger is found by a test.

CREATE TRIGGER agent_versions_in_a_workspace BEFORE INSERT ON agent_versions
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER agents_in_a_workspace BEFORE INSERT ON agents
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER api_keys_in_a_workspace BEFORE INSERT ON api_keys
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER blobs_in_a_workspace BEFORE INSERT ON blobs
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER credential_secrets_in_a_workspace BEFORE INSERT ON credential_secrets
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER deployment_runs_in_a_workspace BEFORE INSERT ON deployment_runs
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER deployment_tokens_in_a_workspace BEFORE INSERT ON deployment_tokens
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER deployments_in_a_workspace BEFORE INSERT ON deployments
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER environment_keys_in_a_workspace BEFORE INSERT ON environment_keys
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER environments_in_a_workspace BEFORE INSERT ON environments
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER files_in_a_workspace BEFORE INSERT ON files
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER mcp_calls_in_a_workspace BEFORE INSERT ON mcp_calls
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER memories_in_a_workspace BEFORE INSERT ON memories
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER memory_contents_in_a_workspace BEFORE INSERT ON memory_contents
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER memory_stores_in_a_workspace BEFORE INSERT ON memory_stores
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER memory_versions_in_a_workspace BEFORE INSERT ON memory_versions
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER model_blocks_in_a_workspace BEFORE INSERT ON model_blocks
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER perimeters_in_a_workspace BEFORE INSERT ON perimeters
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER repository_tokens_in_a_workspace BEFORE INSERT ON repository_tokens
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER request_answers_in_a_workspace BEFORE INSERT ON request_answers
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER session_events_in_a_workspace BEFORE INSERT ON session_events
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER session_holds_in_a_workspace BEFORE INSERT ON session_holds
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER session_snapshots_in_a_workspace BEFORE INSERT ON session_snapshots
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER session_tokens_in_a_workspace BEFORE INSERT ON session_tokens
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER sessions_in_a_workspace BEFORE INSERT ON sessions
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER skills_in_a_workspace BEFORE INSERT ON skills
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER threads_in_a_workspace BEFORE INSERT ON threads
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER tunnel_certificates_in_a_workspace BEFORE INSERT ON tunnel_certificates
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER tunnel_tokens_in_a_workspace BEFORE INSERT ON tunnel_tokens
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER tunnels_in_a_workspace BEFORE INSERT ON tunnels
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER vault_credentials_in_a_workspace BEFORE INSERT ON vault_credentials
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER vaults_in_a_workspace BEFORE INSERT ON vaults
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER webhook_deliveries_in_a_workspace BEFORE INSERT ON webhook_deliveries
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER webhooks_in_a_workspace BEFORE INSERT ON webhooks
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
CREATE TRIGGER work_in_a_workspace BEFORE INSERT ON work
WHEN NOT EXISTS (SELECT 1 FROM workspaces WHERE id = NEW.workspace_id)
BEGIN SELECT RAISE(ABORT, 'workspace_erased'); END;
