package chat

import (
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Bounds of a Roster. Anyone who may publish heartbeats can make as many nkeys
// as they like, but names only as the platform gives them; so strangers crowd
// out only strangers.
const (
	maxKnown     = 10_000
	maxStrangers = 50
)

// offlineAfter is HeartbeatLives and a little for the way.
const offlineAfter = HeartbeatLives + 5*time.Second

// Presence is whether someone is there, as far as heartbeats tell.
type Presence uint8

// The presences; a person with several devices has the highest of theirs.
const (
	Offline Presence = iota
	Idle             // connected, and said that nobody is typing
	Online
)

// String says the presence in one word.
func (p Presence) String() string {
	switch p {
	case Online:
		return "online"
	case Idle:
		return "away"
	case Offline:
		return "offline"
	default:
		return "unknown"
	}
}

// Device is one nkey that has been heard.
type Device struct {
	Key     ident.UserKey
	Name    ident.Name // zero: not verified
	Claimed string     // what it calls itself; of a verified one of no importance
	Region  ident.Region
	Seen    time.Time // the last heartbeat, by our clock
	sent    time.Time // the same by its own: a replayed heartbeat is not newer
	status  Status
}

// Presence is whether the device is there at now.
func (d Device) Presence(now time.Time) Presence {
	switch {
	case d.Seen.IsZero() || now.Sub(d.Seen) > offlineAfter || d.status == Gone:
		return Offline
	case d.status == Away:
		return Idle
	default:
		return Online
	}
}

// Roster is who has been heard and whose nkeys those are. Names are bound to
// nkeys by verified heartbeats only; a heartbeat binds the nkey that signed it
// and no other, so nobody can take over another's binding. The same name on
// several nkeys is one person's devices: the platform gives a name to one
// identity. A binding stays when its nkey goes offline, for what it has written.
//
// A Roster is owned by one goroutine.
type Roster struct {
	devices   map[ident.UserKey]*Device
	names     map[ident.Name][]ident.UserKey
	strangers int
}

// NewRoster is a Roster that knows nobody.
func NewRoster() *Roster {
	return &Roster{devices: make(map[ident.UserKey]*Device), names: make(map[ident.Name][]ident.UserKey)}
}

// Heartbeat takes in a decoded heartbeat. It tells whether somebody came whose
// name is verified: an nkey that was not bound to that name before, or that was
// not there. Who has just come knows nobody yet.
func (r *Roster) Heartbeat(m Message) (newcomer bool) {
	d := r.devices[m.From]
	switch {
	case m.Kind != KindOnline:
		return false
	case d == nil:
		d = r.add(m)
	case !m.Sent.After(d.sent):
		return false
	}
	was := d.Presence(m.Got)
	d.Seen, d.sent, d.status, d.Claimed, d.Region = m.Got, m.Sent, m.Status, m.Claimed, m.Region
	if m.Name.IsZero() {
		return false
	}
	if m.Name == d.Name {
		return was == Offline && d.Presence(m.Got) != Offline
	}
	r.bind(d, m.Name)
	return d.Presence(m.Got) != Offline
}

func (r *Roster) add(m Message) *Device {
	known := !m.Name.IsZero()
	if !known && r.strangers >= maxStrangers || known && len(r.devices)-r.strangers >= maxKnown {
		r.evict(known)
	}
	d := &Device{Key: m.From}
	r.devices[m.From] = d
	r.strangers++ // until it is bound
	return d
}

// evict forgets the one that has not been heard for longest.
func (r *Roster) evict(known bool) {
	var oldest *Device
	for _, d := range r.devices {
		if d.Name.IsZero() != known && (oldest == nil || d.Seen.Before(oldest.Seen)) {
			oldest = d
		}
	}
	if oldest == nil {
		return
	}
	r.unbind(oldest)
	r.strangers--
	delete(r.devices, oldest.Key)
}

func (r *Roster) bind(d *Device, name ident.Name) {
	r.unbind(d)
	d.Name = name
	r.names[name] = append(r.names[name], d.Key)
	slices.SortFunc(r.names[name], func(a, b ident.UserKey) int { return strings.Compare(a.String(), b.String()) })
	r.strangers--
}

// unbind makes d a stranger, if it is none.
func (r *Roster) unbind(d *Device) {
	if d.Name.IsZero() {
		return
	}
	keys := slices.DeleteFunc(r.names[d.Name], func(k ident.UserKey) bool { return k == d.Key })
	if len(keys) == 0 {
		delete(r.names, d.Name)
	} else {
		r.names[d.Name] = keys
	}
	d.Name = ident.Name{}
	r.strangers++
}

// Judge says who wrote a message, as far as is known now: the name its nkey is
// bound to (zero if none), and the first reason to show it as unverified. The
// same message may be judged otherwise when a heartbeat has come.
func (r *Roster) Judge(from ident.UserKey, claimed string, doubt Doubt) (ident.Name, Doubt) {
	d := r.devices[from]
	switch {
	case d == nil || d.Name.IsZero():
		if doubt == None {
			doubt = UnknownSender
		}
		return ident.Name{}, doubt
	case doubt == None && claimed != d.Name.String():
		doubt = OtherName
	}
	return d.Name, doubt
}

// Device is what is known of one nkey.
func (r *Roster) Device(k ident.UserKey) (Device, bool) {
	if d := r.devices[k]; d != nil {
		return *d, true
	}
	return Device{}, false
}

// Keys are all nkeys that are bound to a name, Live those that are there.
func (r *Roster) Keys(n ident.Name) []ident.UserKey { return slices.Clone(r.names[n]) }

// Live are the nkeys of a person that are there at now: where a direct message
// to that person goes.
func (r *Roster) Live(n ident.Name, now time.Time) []ident.UserKey {
	var live []ident.UserKey
	for _, k := range r.names[n] {
		if r.devices[k].Presence(now) != Offline {
			live = append(live, k)
		}
	}
	return live
}

// LiveCount is how many people are there at now.
func (r *Roster) LiveCount(now time.Time) int {
	n := 0
	for name := range r.names {
		if len(r.Live(name, now)) > 0 {
			n++
		}
	}
	return n
}

// Each calls f for every device, in no order.
func (r *Roster) Each(f func(Device)) {
	for _, d := range r.devices {
		f(*d)
	}
}
