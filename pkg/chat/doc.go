// Package chat is Herald's chat without a network and without a screen: what a
// message is and when it is believed, what of a stranger's text may reach a
// terminal, and a state machine that takes events and gives effects.
//
// It has no goroutines, no clock and no randomness of its own; those are passed
// in. It imports neither NATS nor a terminal library: chat/bus puts it on NATS,
// chat/tui on the screen.
//
// # What is believed
//
// Anyone in the room may publish on any of its subjects, and an import lets
// answers of services land there too (docs/architecture.md, "Accounts"). So
// nothing is believed but signatures:
//
//   - A message says who wrote it by the nkey that signed it (iss). One that
//     fails its signature, or has not the shape of a message, is an error of
//     Codec.Decode: it is dropped and counted, never shown.
//   - An nkey has a name only by a heartbeat that carries the user JWT of that
//     nkey, checked up to the platform's role keys (Verify). The Roster binds
//     nkeys to names from such heartbeats only, each binds its own nkey only.
//   - The name that a message claims is believed if it is the one that its nkey
//     is bound to. A message without its subject in aud could have been taken
//     from elsewhere and is shown as unverified; so is one that is too old.
//
// What is shown as unverified looks like "~name?": no name of the platform can,
// because ident.Name has neither '~' nor '?'.
package chat
