//! The tunnel's edge: takes connections that connectors dialled, finds the tunnel for a host, carries ciphertext.
//! Sees no plaintext of a call, holds hashes of tunnel tokens only.
