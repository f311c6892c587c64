//! The gateway: ends inner TLS, verifies who calls, decides by the zone, injects, forwards, scrubs, records.
//! Never forwards what has no verified identity, no permit and no record.
