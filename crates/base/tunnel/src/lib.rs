//! What edge, connector, gateway and the caller at the far end of a tunnel share: the words of the carrying connection,
//! the identity of a call, the rules for certificates. Opens no socket.
