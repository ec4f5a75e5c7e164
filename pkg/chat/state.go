package chat

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/herald-nats/herald/pkg/ident"
)

// Bounds of a State.
const (
	// MaxLines are kept of each conversation; the oldest go first.
	MaxLines = 2000
	// maxTalks is how many conversations with people are kept; those that
	// nobody has written in for longest go first.
	maxTalks = 500
	// maxStrangerTalks is the same for people who are not verified: they cannot
	// crowd out the others.
	maxStrangerTalks = 50
	// maxDigests is how many messages are remembered to notice replays. Those
	// older than TimeSkew are doubted anyway.
	maxDigests = 8192
)

// awayAfter is how long nobody has to type to count as away.
const awayAfter = 5 * time.Minute

// leaveAfter is how long someone who is offline and with whom there is no
// conversation stays in the list.
const leaveAfter = 10 * time.Minute

// Place is a conversation: a channel, a person, or an nkey that is not verified.
// Exactly one field is set. Places compare with ==.
type Place struct {
	Channel ident.Label
	Person  ident.Name
	Key     ident.UserKey
}

// IsZero tells whether the place is none.
func (p Place) IsZero() bool { return p == Place{} }

// Line is one line of a conversation.
type Line struct {
	At      time.Time     // by the sender's clock
	Took    time.Duration // from the sender's clock to ours; negative if the clocks differ
	From    ident.UserKey
	Claimed string
	Text    string // clean
	Doubt   Doubt  // of the message itself; State.Author judges the sender as well
	Notice  bool   // not from anyone: the program speaks
	Own     bool   // written here
	Pending bool   // of an own line: not yet confirmed by the server
	Failed  string // of an own line: why it was not sent
	seq     uint64 // of an own line
}

// Author is whose name to show beside a line.
type Author struct {
	Label    string
	Verified bool
	Doubt    Doubt // why not
}

// Entry is one line of the lists.
type Entry struct {
	Place    Place
	Label    string
	Presence Presence // of people
	Region   ident.Region
	Devices  int // of people: how many nkeys are there
	Unread   int
	Verified bool
	Self     bool
}

// StatusLine is what the bottom line says.
type StatusLine struct {
	Connection Connection
	Region     ident.Region
	Expires    time.Time     // zero: the credential does not expire
	Left       time.Duration // until then; may be negative
	People     int           // who are there, without us
	Dropped    uint64
	Rejected   uint64
	Replayed   uint64
}

// Config is what a State begins with.
type Config struct {
	Channels []ident.Label // at least one; the first is selected
	Name     ident.Name    // our own
	Key      ident.UserKey // our own
	Region   ident.Region
	Expires  time.Time // of our credential
	Now      time.Time
}

// State is the chat of one user: everything that is on the screen, and nothing
// of how it is drawn. Events go in by Apply, effects come out. It is owned by
// one goroutine; it never waits, and its size is bounded.
type State struct {
	cfg      Config
	now      time.Time
	roster   *Roster
	talks    map[Place]*talk
	selected Place
	people   []Entry // sorted; nil: to be made again
	status   StatusLine
	seq      uint64
	pending  map[uint64]Place // own lines that no Sent has answered
	seen     map[[32]byte]struct{}
	digests  [][32]byte // ring of what is in seen
	next     int        // in digests
	active   time.Time  // the last key
	away     bool
	lost     time.Time // when the connection went
	told     bool      // that it went was told
	warned   bool      // that the credential ends soon
}

// talk is a conversation. Its lines are a queue: first is how many have gone.
type talk struct {
	lines  []Line
	first  int
	unread int
	last   time.Time // by our clock
}

// NewState is the state at the start. Config.Channels must not be empty.
func NewState(cfg Config) (*State, error) {
	if len(cfg.Channels) == 0 {
		return nil, errors.New("chat without channels")
	}
	s := &State{
		cfg:     cfg,
		now:     cfg.Now,
		roster:  NewRoster(),
		talks:   make(map[Place]*talk),
		pending: make(map[uint64]Place),
		seen:    make(map[[32]byte]struct{}),
		digests: make([][32]byte, 0, maxDigests),
		active:  cfg.Now,
	}
	for _, c := range cfg.Channels {
		s.talks[Place{Channel: c}] = &talk{}
	}
	s.selected = Place{Channel: cfg.Channels[0]}
	s.status = StatusLine{Region: cfg.Region, Expires: cfg.Expires}
	return s, nil
}

// Apply takes one event that happened at now and gives what is to be done. A
// time before that of the last event is taken as that time.
func (s *State) Apply(now time.Time, e Event) []Effect {
	if now.After(s.now) {
		s.now = now
	}
	switch e := e.(type) {
	case Received:
		return s.received(e.Message)
	case Tick:
		return s.tick()
	case ConnectionChanged:
		s.connection(e)
	case CredentialChanged:
		s.status.Expires, s.warned = e.Expires, false
	case Sent:
		s.sent(e)
	case SnoopResult:
		s.snooped(e)
	case Counted:
		s.status.Dropped, s.status.Rejected = e.Dropped, e.Rejected
	case Notice:
		s.notice(e.Text)
	case Select:
		s.selectPlace(e.Place)
	case Input:
		return append(s.activity(), s.input(e.Text)...)
	case Activity:
		return s.activity()
	}
	return nil
}

func (s *State) received(m Message) []Effect {
	if m.From == s.cfg.Key && m.Kind == KindOnline {
		return nil // we know that we are here
	}
	if m.Kind == KindOnline {
		newcomer := s.roster.Heartbeat(m)
		s.people = nil
		if newcomer {
			s.introduce(m.From, m.Name)
		}
		return nil
	}
	if !s.remember(m.Digest) {
		s.status.Replayed++
		return nil
	}
	p, ok := s.placeOf(m)
	if !ok {
		return nil
	}
	t := s.talk(p)
	// With our nkey, but not written here: another process has our creds. One
	// that is doubted may be an old one of ours that somebody kept.
	own := m.From == s.cfg.Key && m.Doubt == None
	t.add(Line{At: m.Sent, Took: m.Got.Sub(m.Sent), From: m.From, Claimed: m.Claimed, Text: m.Text, Doubt: m.Doubt, Own: own})
	t.last = s.now
	s.people = nil
	if p == s.selected {
		return nil
	}
	t.unread++
	if m.Kind != KindDM {
		return nil
	}
	return []Effect{Notify{From: s.label(m.From, m.Claimed, m.Doubt).Label, Text: m.Text}}
}

// placeOf says where a post or direct message belongs; not ok if nowhere.
func (s *State) placeOf(m Message) (Place, bool) {
	switch m.Kind {
	case KindPost:
		p := Place{Channel: m.Channel}
		return p, s.talks[p] != nil // not one of our channels
	case KindDM:
		return s.placeOfKey(m.From), m.To == s.cfg.Key
	case KindOnline:
	}
	return Place{}, false
}

// placeOfKey is the conversation with whoever holds k.
func (s *State) placeOfKey(k ident.UserKey) Place {
	if k == s.cfg.Key {
		return Place{Person: s.cfg.Name}
	}
	if d, ok := s.roster.Device(k); ok && !d.Name.IsZero() {
		return Place{Person: d.Name}
	}
	return Place{Key: k}
}

// remember notes a digest; false if it has been seen.
func (s *State) remember(d [32]byte) bool {
	if _, ok := s.seen[d]; ok {
		return false
	}
	s.seen[d] = struct{}{}
	if len(s.digests) < maxDigests {
		s.digests = append(s.digests, d)
		return true
	}
	delete(s.seen, s.digests[s.next])
	s.digests[s.next] = d
	s.next = (s.next + 1) % maxDigests
	return true
}

// introduce moves what an nkey has written before it was known to the person
// whose it is.
func (s *State) introduce(k ident.UserKey, name ident.Name) {
	from, to := Place{Key: k}, Place{Person: name}
	old := s.talks[from]
	if old == nil {
		if s.selected == from {
			s.selected = to
		}
		return
	}
	delete(s.talks, from)
	t := s.talk(to)
	t.merge(old)
	for seq, p := range s.pending {
		if p == from {
			s.pending[seq] = to
		}
	}
	if s.selected == from {
		s.selected = to
	}
	if s.selected == to {
		t.unread = 0
	}
}

// lostAfter is how long a connection must be gone to be called lost: a renewed
// credential takes effect by a reconnect, which takes some milliseconds.
const lostAfter = 1500 * time.Millisecond

func (s *State) tick() []Effect {
	s.people = nil // presence is of now
	if s.status.Connection == Reconnecting && !s.told && s.now.Sub(s.lost) >= lostAfter {
		s.told = true
		s.noticeAll("the connection is lost; what others write until it is back will be missing here")
	}
	if s.status.Expires.IsZero() || s.warned {
		return s.idle()
	}
	if left := s.status.Expires.Sub(s.now); left < 2*time.Minute {
		s.warned = true
		s.notice("the credential ends in " + left.Round(time.Second).String() + " unless it is renewed")
	}
	return s.idle()
}

func (s *State) idle() []Effect {
	if s.away || s.now.Sub(s.active) < awayAfter {
		return nil
	}
	s.away = true
	return []Effect{SetStatus{Away}}
}

func (s *State) activity() []Effect {
	s.active = s.now
	if !s.away {
		return nil
	}
	s.away = false
	return []Effect{SetStatus{Here}}
}

// connection tells of changes in every channel: a gap is not hidden.
func (s *State) connection(e ConnectionChanged) {
	before, region := s.status.Connection, s.status.Region
	s.status.Connection = e.State
	if !e.Region.IsZero() {
		s.status.Region = e.Region
	}
	switch {
	case e.State == Reconnecting && before == Connected:
		s.lost, s.told = s.now, false // told by tick, if it lasts
	case e.State == Connected && before == Reconnecting && region != s.status.Region:
		s.noticeAll("connected again, now in " + s.status.Region.String() + "; what others wrote meanwhile is missing here")
	case e.State == Connected && before == Reconnecting && s.told:
		s.noticeAll("connected again")
	case e.State == Connected && before == Reconnecting:
		// So it is with each renewal of the credential.
		s.noticeAll("reconnected within " + s.now.Sub(s.lost).Round(time.Millisecond).String() + "; what others wrote just then may be missing here")
	case e.State == Closed && before != Closed:
		s.noticeAll("the connection is closed")
	}
}

func (s *State) sent(e Sent) {
	p, ok := s.pending[e.Seq]
	if !ok {
		return
	}
	delete(s.pending, e.Seq)
	t := s.talks[p]
	if t == nil {
		return
	}
	for i := range slices.Backward(t.lines) {
		if l := &t.lines[i]; l.seq == e.Seq {
			l.Pending = false
			if e.Err != nil {
				l.Failed = Clean(e.Err.Error())
			}
			return
		}
	}
}

func (s *State) snooped(e SnoopResult) {
	if e.Err == nil {
		s.notice("the server let us read the direct messages of " + e.Name.String() + ": this platform is not set up right")
		return
	}
	s.notice("the server's answer: " + e.Err.Error())
}

func (s *State) notice(text string) {
	s.talk(s.selected).add(Line{At: s.now, Text: Clean(text), Notice: true})
}

// noticeAll is notice for every channel and the conversation that is selected.
func (s *State) noticeAll(text string) {
	for _, c := range s.cfg.Channels {
		if p := (Place{Channel: c}); p != s.selected {
			s.talks[p].add(Line{At: s.now, Text: Clean(text), Notice: true})
		}
	}
	s.notice(text)
}

func (s *State) selectPlace(p Place) {
	set := 0
	for _, b := range []bool{!p.Channel.IsZero(), !p.Person.IsZero(), !p.Key.IsZero()} {
		if b {
			set++
		}
	}
	if set != 1 || !p.Channel.IsZero() && s.talks[p] == nil {
		return
	}
	if !p.Key.IsZero() {
		p = s.placeOfKey(p.Key)
	}
	s.selected = p
	t := s.talk(p)
	t.unread = 0
	s.people = nil
}

// talk is the conversation of a place; it is made if there is none.
func (s *State) talk(p Place) *talk {
	t := s.talks[p]
	if t == nil {
		s.makeRoom(p)
		t = &talk{last: s.now}
		s.talks[p] = t
	}
	return t
}

// makeRoom forgets the oldest conversation of p's kind if there are too many.
func (s *State) makeRoom(p Place) {
	limit := maxTalks
	if !p.Key.IsZero() {
		limit = maxStrangerTalks
	}
	var oldest Place
	count := 0
	for q, t := range s.talks {
		if !q.Channel.IsZero() || q.Key.IsZero() != p.Key.IsZero() {
			continue
		}
		count++
		if q != s.selected && (oldest.IsZero() || t.last.Before(s.talks[oldest].last)) {
			oldest = q
		}
	}
	if count >= limit && !oldest.IsZero() {
		delete(s.talks, oldest)
	}
}

func (t *talk) add(l Line) {
	t.lines = append(t.lines, l)
	t.trim()
}

// trim lets the oldest lines go. Append copies the rest when the array is used
// up, which is every few hundred lines and not every line.
func (t *talk) trim() {
	if extra := len(t.lines) - MaxLines; extra > 0 {
		t.first += extra
		clear(t.lines[:extra]) // let go of the texts
		t.lines = t.lines[extra:]
	}
}

// merge takes over the lines of another conversation by the time they were
// written; the order of either is kept.
func (t *talk) merge(o *talk) {
	lines := append(slices.Clone(t.lines), o.lines...)
	slices.SortStableFunc(lines, func(a, b Line) int { return a.At.Compare(b.At) })
	t.lines = lines
	t.unread += o.unread
	if o.last.After(t.last) {
		t.last = o.last
	}
	t.trim()
}

// Now is the time of the last event.
func (s *State) Now() time.Time { return s.now }

// Self is our own name and nkey.
func (s *State) Self() (ident.Name, ident.UserKey) { return s.cfg.Name, s.cfg.Key }

// Selected is the conversation that is shown.
func (s *State) Selected() Place { return s.selected }

// Status is what the bottom line says.
func (s *State) Status() StatusLine {
	st := s.status
	if !st.Expires.IsZero() {
		st.Left = st.Expires.Sub(s.now)
	}
	for _, e := range s.People() {
		if e.Verified && !e.Self && e.Presence != Offline {
			st.People++
		}
	}
	return st
}

// Lines gives the bounds of the conversation that is shown: its lines have the
// numbers from first to end-1. A line keeps its number until it is dropped.
func (s *State) Lines() (first, end int) {
	t := s.talks[s.selected]
	if t == nil {
		return 0, 0
	}
	return t.first, t.first + len(t.lines)
}

// Line is one line of the conversation that is shown; i is as Lines says.
func (s *State) Line(i int) Line {
	t := s.talks[s.selected]
	return t.lines[i-t.first]
}

// Author says whose name to show beside a line, by what is known now.
func (s *State) Author(l Line) Author {
	if l.Own {
		return Author{Label: s.cfg.Name.String(), Verified: true}
	}
	return s.label(l.From, l.Claimed, l.Doubt)
}

func (s *State) label(from ident.UserKey, claimed string, doubt Doubt) Author {
	name, doubt := s.roster.Judge(from, claimed, doubt)
	if doubt == None {
		return Author{Label: name.String(), Verified: true}
	}
	return Author{Label: Unverified(claimed, from), Doubt: doubt}
}

// Channels is the list of channels, in the order of the configuration.
func (s *State) Channels() []Entry {
	list := make([]Entry, 0, len(s.cfg.Channels))
	for _, c := range s.cfg.Channels {
		p := Place{Channel: c}
		list = append(list, Entry{Place: p, Label: c.String(), Unread: s.talks[p].unread})
	}
	return list
}

// People is the list of people: verified ones by name, ourselves among them,
// then those who are not verified. The slice is the State's: it holds until the
// next Apply.
func (s *State) People() []Entry {
	if s.people == nil {
		s.people = s.listPeople()
	}
	return s.people
}

func (s *State) listPeople() []Entry {
	byPlace := map[Place]*Entry{
		{Person: s.cfg.Name}: {Place: Place{Person: s.cfg.Name}, Label: s.cfg.Name.String(), Presence: Online, Region: s.status.Region, Devices: 1, Verified: true, Self: true},
	}
	s.roster.Each(func(d Device) {
		p := s.placeOfKey(d.Key)
		e := byPlace[p]
		pres := d.Presence(s.now)
		if e == nil {
			if pres == Offline && s.talks[p] == nil && s.now.Sub(d.Seen) > leaveAfter {
				return
			}
			e = s.entry(p, d.Claimed)
			byPlace[p] = e
		}
		if pres != Offline {
			e.Devices++
		}
		// The region of the device that is most there; of equals the smallest
		// name, so that the list does not flicker.
		if pres > e.Presence || pres == e.Presence && !e.Self && (e.Region.IsZero() || d.Region.String() < e.Region.String()) {
			e.Presence, e.Region = pres, d.Region
		}
	})
	for p, t := range s.talks {
		if !p.Channel.IsZero() {
			continue
		}
		if byPlace[p] == nil {
			byPlace[p] = s.entry(p, t.claimed())
		}
		byPlace[p].Unread = t.unread
	}
	list := make([]Entry, 0, len(byPlace))
	for _, e := range byPlace {
		list = append(list, *e)
	}
	slices.SortFunc(list, func(a, b Entry) int {
		if a.Verified != b.Verified {
			if a.Verified {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Label, b.Label), strings.Compare(a.Place.Key.String(), b.Place.Key.String()))
	})
	return list
}

func (s *State) entry(p Place, claimed string) *Entry {
	if p.Key.IsZero() {
		return &Entry{Place: p, Label: p.Person.String(), Verified: true, Self: p.Person == s.cfg.Name}
	}
	return &Entry{Place: p, Label: Unverified(claimed, p.Key)}
}

// claimed is the name that the other of a conversation claimed last.
func (t *talk) claimed() string {
	for _, l := range slices.Backward(t.lines) {
		if !l.Own && !l.Notice {
			return l.Claimed
		}
	}
	return ""
}
