-- Where in a request a variable's value may stand, as it was sealed; NULL for other kinds, and for what was sealed before
-- that was bound. Authenticated with the ciphertext.
ALTER TABLE vault_credentials ADD COLUMN injection TEXT;
