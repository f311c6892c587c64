-- Why the last refresh of an OAuth credential brought no tokens, as JSON; NULL when it did, when none was tried, and after its
-- owner sent another token. Only the first failure is announced.
ALTER TABLE vault_credentials ADD COLUMN refresh_failed TEXT;
