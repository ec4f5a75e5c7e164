package chat

import (
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Event is what State.Apply takes: something that came from the network, or
// something that the user wants.
type Event interface{ event() }

// Received is a message that was decoded: a post, a direct message, a heartbeat.
type Received struct{ Message Message }

// Tick says that time has passed; presence and time left depend on it. Once a
// second is enough.
type Tick struct{}

// Connection is the state of the connection.
type Connection uint8

// The states of the connection.
const (
	Connecting Connection = iota
	Connected
	Reconnecting
	Closed // for good
)

// String says the state in one word.
func (c Connection) String() string {
	switch c {
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	case Reconnecting:
		return "reconnecting"
	case Closed:
		return "closed"
	default:
		return "unknown"
	}
}

// ConnectionChanged tells of the connection; Region is where it goes, zero if
// that is not known.
type ConnectionChanged struct {
	State  Connection
	Region ident.Region
}

// CredentialChanged tells of a new credential; a zero Expires never expires.
type CredentialChanged struct{ Expires time.Time }

// Sent answers SendPost and SendDM: Err is nil if the server took it. Its text
// is shown.
type Sent struct {
	Seq uint64
	Err error
}

// SnoopResult answers Snoop: what the server said to the attempt to read
// another's direct messages. Err is nil if it allowed that, which is a fault of
// the platform's set-up.
type SnoopResult struct {
	Name ident.Name
	Key  ident.UserKey
	Err  error
}

// Counted gives totals of what was not shown since the start.
type Counted struct {
	Dropped  uint64 // there was no time to take them
	Rejected uint64 // they were not messages, or their signature did not hold
}

// Notice is something to tell the user; it is shown in the conversation that is
// selected. Text may come from outside: Apply cleans it.
type Notice struct{ Text string }

// Select shows a conversation and marks it as read.
type Select struct{ Place Place }

// Input is a line that the user entered: a text to send or a command.
type Input struct{ Text string }

// Activity says that the user pressed a key.
type Activity struct{}

func (Received) event()          {}
func (Tick) event()              {}
func (ConnectionChanged) event() {}
func (CredentialChanged) event() {}
func (Sent) event()              {}
func (SnoopResult) event()       {}
func (Counted) event()           {}
func (Notice) event()            {}
func (Select) event()            {}
func (Input) event()             {}
func (Activity) event()          {}

// Effect is what State.Apply asks for: whoever applied the event carries it out.
type Effect interface{ effect() }

// SendPost asks to publish a post; Sent with the same Seq answers it.
type SendPost struct {
	Seq     uint64
	Channel ident.Label
	Text    string
}

// SendDM asks to publish a direct message to each of a person's nkeys; one Sent
// with the same Seq answers it.
type SendDM struct {
	Seq  uint64
	Keys []ident.UserKey
	Text string
}

// SetStatus asks to say in heartbeats whether the user is at the keyboard.
type SetStatus struct{ Status Status }

// Snoop asks to subscribe to another's direct messages, so that the server's
// refusal can be seen; SnoopResult answers it.
type Snoop struct {
	Name ident.Name
	Key  ident.UserKey
}

// Notify asks for the user's attention, with a bell or a notification of the
// desktop. Both strings are clean.
type Notify struct{ From, Text string }

// ShowHelp asks the front end for its page of keys and commands.
type ShowHelp struct{}

// Quit asks to end.
type Quit struct{}

func (SendPost) effect()  {}
func (SendDM) effect()    {}
func (SetStatus) effect() {}
func (Snoop) effect()     {}
func (Notify) effect()    {}
func (ShowHelp) effect()  {}
func (Quit) effect()      {}
