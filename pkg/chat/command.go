package chat

import (
	"strings"

	"github.com/herald-nats/herald/pkg/ident"
)

// Command is one command that can be entered instead of a text.
type Command struct{ Usage, What string }

// Commands lists the commands, for help pages.
func Commands() []Command {
	return []Command{
		{"/msg @name text", "a direct message"},
		{"/who", "who is here, and in which region"},
		{"/snoop @name", "try to read another's direct messages"},
		{"/help", "this page"},
		{"/quit", "end"},
		{"//text", "a text that begins with a slash"},
	}
}

// input takes an entered line: a text for the selected conversation, or a
// command.
func (s *State) input(line string) []Effect {
	line = strings.TrimSpace(line)
	switch {
	case line == "":
		return nil
	case strings.HasPrefix(line, "//"):
		return s.send(s.selected, line[1:])
	case !strings.HasPrefix(line, "/"):
		return s.send(s.selected, line)
	}
	verb, rest, _ := strings.Cut(line[1:], " ")
	rest = strings.TrimSpace(rest)
	switch verb {
	case "help":
		return []Effect{ShowHelp{}}
	case "quit":
		return []Effect{Quit{}}
	case "who":
		s.who()
		return nil
	case "msg":
		return s.msg(rest)
	case "snoop":
		return s.snoop(rest)
	default:
		s.notice("there is no command /" + Clean(verb) + "; /help lists them, and a text that begins with / is written with //")
		return nil
	}
}

// send writes a text into a conversation. It is shown at once, and marked until
// the server has taken it.
func (s *State) send(p Place, text string) []Effect {
	text, err := checkText(text)
	if err != nil {
		s.notice(err.Error())
		return nil
	}
	s.seq++
	var e Effect
	if !p.Channel.IsZero() {
		e = SendPost{Seq: s.seq, Channel: p.Channel, Text: text}
	} else {
		keys := s.keysOf(p)
		switch {
		case len(keys) > 0:
		case p.Person == s.cfg.Name:
			s.notice("you have no other device here")
			return nil
		default:
			s.notice(s.called(p) + " is not here: direct messages reach only those who are connected")
			return nil
		}
		e = SendDM{Seq: s.seq, Keys: keys, Text: text}
	}
	s.pending[s.seq] = p
	t := s.talk(p)
	t.add(Line{At: s.now, From: s.cfg.Key, Text: text, Own: true, Pending: true, seq: s.seq})
	t.last = s.now
	return []Effect{e}
}

// keysOf are the nkeys that a direct message to p goes to.
func (s *State) keysOf(p Place) []ident.UserKey {
	if !p.Key.IsZero() {
		return []ident.UserKey{p.Key}
	}
	return s.roster.Live(p.Person, s.now)
}

func (s *State) called(p Place) string {
	if !p.Person.IsZero() {
		return p.Person.String()
	}
	return Unverified(s.talk(p).claimed(), p.Key)
}

func (s *State) who() {
	for _, e := range s.People() {
		text := e.Label + " is " + e.Presence.String()
		if e.Presence != Offline && !e.Region.IsZero() {
			text += " in " + e.Region.String()
		}
		if e.Self {
			text += " (you)"
		}
		if !e.Verified {
			text += " (not verified)"
		}
		s.notice(text)
	}
}

// person reads "@name" or "name"; a notice says what is wrong.
func (s *State) person(word, usage string) (ident.Name, bool) {
	name, err := ident.ParseName(strings.TrimPrefix(word, "@"))
	if err != nil {
		s.notice("usage: " + usage)
		return ident.Name{}, false
	}
	return name, true
}

func (s *State) msg(rest string) []Effect {
	word, text, _ := strings.Cut(rest, " ")
	name, ok := s.person(word, "/msg @name text")
	if !ok {
		return nil
	}
	if len(s.roster.Keys(name)) == 0 && name != s.cfg.Name {
		s.notice("nobody called " + name.String() + " has been heard")
		return nil
	}
	s.selectPlace(Place{Person: name})
	if strings.TrimSpace(text) == "" {
		return nil
	}
	return s.send(s.selected, text)
}

// snoop shows that the server refuses to let one read another's messages.
func (s *State) snoop(rest string) []Effect {
	name, ok := s.person(rest, "/snoop @name")
	if !ok {
		return nil
	}
	keys := s.roster.Keys(name)
	if len(keys) == 0 {
		s.notice("nobody called " + name.String() + " has been heard")
		return nil
	}
	s.notice("asking the server for the direct messages of " + name.String())
	return []Effect{Snoop{Name: name, Key: keys[0]}}
}
