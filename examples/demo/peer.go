package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/chat/bus"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
)

// peer is the friendly other in another region: it greets who comes, and
// answers each message with the way that it took.
type peer struct {
	session *client.Session
	bus     *bus.Bus
	roster  *chat.Roster
	name    ident.Name
	self    ident.UserKey
	second  string
	general ident.Label
	greeted map[ident.UserKey]bool
}

type peerKey struct {
	*keystore.Key
	user ident.UserKey
}

func (k peerKey) Public() ident.UserKey { return k.user }

// runPeer is the program's other face: demo peer PUBLIC REGION SECOND.
func runPeer(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: demo peer PUBLIC REGION SECOND")
	}
	pl, err := client.LoadPlatform(args[0])
	if err != nil {
		return err
	}
	region, err := ident.ParseRegion(args[1])
	if err != nil {
		return err
	}
	name, err := ident.ParseName("hermes")
	if err != nil {
		return err
	}
	key, err := keystore.Generate(keystore.User)
	if err != nil {
		return err
	}
	user, err := ident.ParseUserKey(key.Public())
	if err != nil {
		return err
	}
	p := &peer{roster: chat.NewRoster(), name: name, self: user, second: args[2], general: pl.Document.Chat.Rooms[0].Channels[0], greeted: map[ident.UserKey]bool{}}
	var late atomic.Pointer[bus.Bus]
	sctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	p.session, err = client.Connect(sctx, client.Config{
		Platform: pl, Key: key, Region: region, Wish: client.Wish{Name: name},
		OnError: func(sub *nats.Subscription, err error) {
			if b := late.Load(); b != nil {
				b.HandleError(sub, err)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		p.session.Close(cctx)
	}()
	p.bus, err = bus.New(sctx, bus.Config{
		Conn: p.session.Conn, Room: pl.Document.Chat.Rooms[0].Name, Channels: pl.Document.Chat.Rooms[0].Channels, Name: name,
		Signer: peerKey{key, user}, UserJWT: func() string { return p.session.Credential().JWT },
		Verify: func(token string, now time.Time) (ident.UserKey, ident.Name, error) {
			u, err := pl.Document.VerifyUser(token, now)
			return u.Key, u.Name, err
		},
	})
	if err != nil {
		return err
	}
	late.Store(p.bus)
	defer p.bus.Close()
	if err := cli.JSON(cli.Stdio().Out, map[string]any{"event": "ready", "region": region}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-p.bus.Events():
			if !ok {
				return nil
			}
			if r, is := e.(chat.Received); is {
				p.hear(r.Message)
			}
		}
	}
}

func (p *peer) hear(m chat.Message) {
	if m.From == p.self {
		return
	}
	if m.Kind == chat.KindOnline {
		p.roster.Heartbeat(m)
		if !m.Name.IsZero() && !p.greeted[m.From] {
			p.greeted[m.From] = true
			p.post(fmt.Sprintf("Hello %s! I am in %s. Write to me here or with /msg @%s and I say how your words came. Try F9, and /snoop @%s.",
				m.Name, p.session.Region(), p.name, p.name))
			if len(p.greeted) == 1 {
				p.post("A second person, in another terminal:  " + p.second)
			}
		}
		return
	}
	name, doubt := p.roster.Judge(m.From, m.Claimed, m.Doubt)
	if doubt != chat.None {
		return // whose words these are is not known: nothing to answer
	}
	from := "?"
	if d, ok := p.roster.Device(m.From); ok {
		from = d.Region.String()
	}
	here := p.session.Region()
	text := fmt.Sprintf("%s: %s → gateway → %s in %.1f ms", name, from, here, float64(m.Got.Sub(m.Sent).Microseconds())/1000)
	if from == here.String() {
		text = fmt.Sprintf("%s: within %s in %.1f ms", name, from, float64(m.Got.Sub(m.Sent).Microseconds())/1000)
	}
	if m.Kind == chat.KindDM {
		p.bus.Do(chat.SendDM{Keys: []ident.UserKey{m.From}, Text: text})
		return
	}
	p.bus.Do(chat.SendPost{Channel: m.Channel, Text: text})
}

func (p *peer) post(text string) { p.bus.Do(chat.SendPost{Channel: p.general, Text: text}) }
