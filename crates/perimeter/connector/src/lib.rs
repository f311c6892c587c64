//! The connector: dials the edge, carries tunnel streams to the gateway. Holds the tunnel token, sees ciphertext.
