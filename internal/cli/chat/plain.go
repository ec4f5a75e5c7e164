package chat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/pkg/chat"
	"github.com/herald-nats/herald/pkg/chat/bus"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/subject"
)

func newSend(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "send TARGET TEXT",
		Short: "Send one message: to '#channel' or '@person'",
		Long: `send posts to a channel, or sends a direct message to each device of a person who
is there. It ends when the server has taken the message, with exit code 0.`,
		Example: `  chat send '#General' 'hello'
  chat send @bob 'are you there?'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return runSend(cmd.Context(), g, args[0], args[1]) },
	}
}

func runSend(ctx context.Context, g *globals, target, text string) (err error) {
	channel, person, err := parseTarget(target)
	if err != nil {
		return err
	}
	switch {
	case chat.Clean(text) == "":
		return cli.Errorf(cli.Usage, "give a text with something to see", "the text is empty")
	case len(text) > chat.MaxText:
		return cli.Errorf(cli.Usage, fmt.Sprintf("a message has at most %d bytes: send it in parts", chat.MaxText), "the text has %d bytes", len(text))
	}
	r, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	if person.IsZero() {
		err = post(ctx, r, channel, text)
	} else {
		go drain(r.bus.Events()) // ends when the bus is closed
		err = r.bus.SendDM(ctx, person, text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if g.json {
		return cli.JSON(g.Out, map[string]any{"event": "sent", "to": target, "from": r.name, "region": r.region()})
	}
	return nil
}

// post posts behind a heartbeat. Who has just come is a stranger to everyone,
// and a post that overtook the heartbeat would be shown as one by nobody known;
// the bus carries out what it is asked to do in order.
func post(ctx context.Context, r *room, channel ident.Label, text string) error {
	const seq = 1
	r.bus.Do(chat.SetStatus{Status: chat.Here})
	r.bus.Do(chat.SendPost{Seq: seq, Channel: channel, Text: text})
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the server: %w", ctx.Err())
		case e, ok := <-r.bus.Events():
			if !ok {
				return bus.ErrClosed
			}
			if sent, is := e.(chat.Sent); is && sent.Seq == seq {
				return sent.Err
			}
		}
	}
}

func drain(events <-chan chat.Event) {
	for range events { //nolint:revive // nothing is wanted of them
	}
}

func parseTarget(s string) (channel ident.Label, person ident.Name, err error) {
	switch {
	case strings.HasPrefix(s, "#"):
		channel, err = ident.ParseLabel(s[1:])
	case strings.HasPrefix(s, "@"):
		person, err = ident.ParseName(s[1:])
	default:
		err = cli.Errorf(cli.Usage, "write '#General' (quoted, for the shell) or @bob", "%q is neither a channel nor a person", s)
	}
	return channel, person, err
}

type tailOptions struct {
	count int
	lasts time.Duration
}

func newTail(g *globals) *cobra.Command {
	var o tailOptions
	c := &cobra.Command{
		Use:   "tail",
		Short: "Print messages as they come, line by line",
		Long: `tail prints every post of the room and your direct messages, one line each: for
screen readers and, with --json, for scripts. A name with ~ and ? is not verified.`,
		Example: `  chat tail
  chat tail --json --count 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runTail(cmd.Context(), g, o) },
	}
	c.Flags().IntVar(&o.count, "count", 0, "end after `n` messages")
	c.Flags().DurationVar(&o.lasts, "for", 0, "end after this `time`")
	return c
}

// readyLine is the first line of `tail --json`.
type readyLine struct {
	Event string `json:"event"`
	whoami
}

func runTail(ctx context.Context, g *globals, o tailOptions) (err error) {
	if o.count < 0 || o.lasts < 0 {
		return cli.Errorf(cli.Usage, "leave it out to go on until Ctrl-C", "--count and --for cannot be negative")
	}
	r, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	if o.lasts > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.lasts)
		defer cancel()
	}
	if g.json {
		err = cli.JSON(g.Out, readyLine{"ready", r.whoami()})
	} else {
		err = cli.Print(g.Err, "%s in %s; Ctrl-C ends\n", r.name, r.region())
	}
	if err != nil {
		return err
	}
	roster := chat.NewRoster()
	for left := o.count; ; {
		select {
		case <-ctx.Done():
			return nil // a tail is ended so
		case e, ok := <-r.bus.Events():
			if !ok {
				return nil
			}
			message, err := g.tell(roster, e)
			if err != nil {
				return err
			}
			if left--; message && left == 0 {
				return nil
			}
			if !message {
				left++
			}
		}
	}
}

// told is one line of `tail --json`.
type told struct {
	Event     string       `json:"event"` // message, online, connection, notice
	Kind      string       `json:"kind,omitempty"`
	Channel   string       `json:"channel,omitempty"`
	To        string       `json:"to,omitempty"`
	From      string       `json:"from,omitempty"`
	Key       string       `json:"key,omitempty"`
	Verified  *bool        `json:"verified,omitempty"` // of messages and of who came
	Doubt     string       `json:"doubt,omitempty"`
	Text      string       `json:"text,omitempty"`
	Sent      *time.Time   `json:"sent,omitempty"`
	LatencyMS float64      `json:"latency_ms,omitempty"`
	Region    ident.Region `json:"region,omitzero"`
	State     string       `json:"state,omitempty"`
}

// tell prints one event; it says whether that was a message.
func (g *globals) tell(roster *chat.Roster, e chat.Event) (bool, error) {
	switch e := e.(type) {
	case chat.Received:
		m := e.Message
		if m.Kind == chat.KindOnline {
			if !roster.Heartbeat(m) {
				return false, nil
			}
			return false, g.line(told{Event: "online", From: m.Name.String(), Key: m.From.String(), Verified: new(true), Region: m.Region},
				"* %s is here (%s)", m.Name, m.Region)
		}
		return true, g.message(roster, m)
	case chat.ConnectionChanged:
		return false, g.line(told{Event: "connection", State: e.State.String(), Region: e.Region}, "* %s %s", e.State, e.Region)
	case chat.Notice:
		text := chat.Clean(e.Text)
		return false, g.line(told{Event: "notice", Text: text}, "* %s", text)
	default:
		return false, nil
	}
}

func (g *globals) message(roster *chat.Roster, m chat.Message) error {
	name, doubt := roster.Judge(m.From, m.Claimed, m.Doubt)
	from := name.String()
	if doubt != chat.None {
		from = chat.Unverified(m.Claimed, m.From)
	}
	t := told{
		Event: "message", Kind: "post", Channel: m.Channel.String(), From: from, Key: m.From.String(),
		Verified: new(doubt == chat.None), Text: m.Text, Sent: &m.Sent,
		LatencyMS: float64(m.Got.Sub(m.Sent).Microseconds()) / 1000,
	}
	if doubt != chat.None {
		t.Doubt = doubt.String()
	}
	where := "#" + m.Channel.String()
	if m.Kind == chat.KindDM {
		t.Kind, t.To, where = "dm", m.To.String(), "direct"
	}
	return g.line(t, "%s %s <%s> %s", m.Sent.Local().Format("15:04"), where, from, m.Text)
}

func (g *globals) line(t told, format string, args ...any) error {
	if g.json {
		return cli.JSON(g.Out, t)
	}
	return cli.Print(g.Out, format+"\n", args...)
}

func newWho(g *globals) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:     "who",
		Short:   "Show who is there",
		Long:    `who joins, waits for others to answer, and prints who is there and where.`,
		Example: `  chat who`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runWho(cmd.Context(), g, wait) },
	}
	c.Flags().DurationVar(&wait, "wait", 2500*time.Millisecond, "how long to listen for others")
	return c
}

type person struct {
	Name     string       `json:"name"`
	Presence string       `json:"presence"`
	Region   ident.Region `json:"region,omitzero"`
	Verified bool         `json:"verified"`
	Key      string       `json:"key"`
	Self     bool         `json:"self,omitempty"`
}

func runWho(ctx context.Context, g *globals, wait time.Duration) (err error) {
	if wait <= 0 {
		return cli.Errorf(cli.Usage, "others need a second or two to answer, such as --wait 2.5s", "--wait %s cannot be", wait)
	}
	r, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	roster := chat.NewRoster()
	for listening := true; listening; {
		select {
		case <-ctx.Done():
			listening = false
		case e, ok := <-r.bus.Events():
			if m, is := e.(chat.Received); ok && is && m.Message.Kind == chat.KindOnline {
				roster.Heartbeat(m.Message)
			}
			listening = ok
		}
	}
	now := time.Now()
	// We do not hear ourselves.
	people := []person{{
		Name: r.name.String(), Presence: chat.Online.String(), Region: r.region(), Verified: true, Key: r.key.Public(), Self: true,
	}}
	roster.Each(func(d chat.Device) {
		if d.Presence(now) == chat.Offline || d.Key.String() == r.key.Public() {
			return
		}
		p := person{
			Name: d.Name.String(), Presence: d.Presence(now).String(), Region: d.Region,
			Verified: !d.Name.IsZero(), Key: d.Key.String(),
		}
		if !p.Verified {
			p.Name = chat.Unverified(d.Claimed, d.Key)
		}
		people = append(people, p)
	})
	slices.SortFunc(people, func(a, b person) int { return strings.Compare(a.Name+a.Key, b.Name+b.Key) })
	if g.json {
		return cli.JSON(g.Out, people)
	}
	rows := [][]string{{"NAME", "PRESENCE", "REGION", "KEY"}}
	for _, p := range people {
		name := p.Name
		if p.Self {
			name += " (you)"
		}
		rows = append(rows, []string{name, p.Presence, p.Region.String(), p.Key})
	}
	return cli.Table(g.Out, rows)
}

// whoami says who we are; none of it is secret.
type whoami struct {
	Name         ident.Name    `json:"name"`
	Key          string        `json:"key"`
	Platform     string        `json:"platform,omitempty"`
	Account      string        `json:"account,omitempty"`
	Role         string        `json:"role,omitempty"`
	Identity     string        `json:"identity,omitempty"`
	Region       ident.Region  `json:"region,omitzero"`
	Room         ident.Label   `json:"room"`
	Channels     []ident.Label `json:"channels"`
	Expires      *time.Time    `json:"expires,omitempty"`
	Issuer       string        `json:"issuer,omitempty"`
	IssuerRegion ident.Region  `json:"issuer_region,omitzero"`
	TookMS       float64       `json:"took_ms,omitempty"`
}

func (r *room) whoami() whoami {
	c := r.current()
	w := whoami{
		Name: r.name, Key: r.key.Public(), Account: c.User.Account.String(), Role: c.User.Role.String(),
		Identity: c.User.Identity.String(), Region: r.region(), Room: r.room, Channels: r.channels,
		Issuer: c.Issuer, IssuerRegion: c.Region, TookMS: float64(c.Took.Microseconds()) / 1000,
	}
	if r.platform != nil {
		w.Platform = r.platform().Document.Name
	}
	if !c.Expires.IsZero() {
		w.Expires = &c.Expires
	}
	return w
}

func newWhoami(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "whoami",
		Short:   "Show your name, key, region and credential",
		Example: `  chat whoami --json`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runWhoami(cmd.Context(), g) },
	}
}

func runWhoami(ctx context.Context, g *globals) (err error) {
	r, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	go drain(r.bus.Events()) // ends when the bus is closed
	w := r.whoami()
	if g.json {
		return cli.JSON(g.Out, w)
	}
	expires := "never"
	if w.Expires != nil {
		expires = w.Expires.Local().Format(time.DateTime) + " (" + time.Until(*w.Expires).Round(time.Second).String() + " left)"
	}
	issued := "kept from before"
	if w.Issuer != "" {
		issued = fmt.Sprintf("%s in %s, in %.1f ms", w.Issuer, w.IssuerRegion, w.TookMS)
	}
	var channels []string
	for _, c := range w.Channels {
		channels = append(channels, "#"+c.String())
	}
	return cli.Table(g.Out, [][]string{
		{"name", w.Name.String()},
		{"key", w.Key},
		{"platform", w.Platform},
		{"account", w.Account + "/" + w.Role},
		{"region", w.Region.String()},
		{"room", w.Room.String() + ": " + strings.Join(channels, " ")},
		{"expires", expires},
		{"issued by", issued},
	})
}

func newSnoop(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "snoop TARGET",
		Short: "Try to read somebody's direct messages, and show the server's refusal",
		Long: `snoop subscribes to the direct messages and to the inbox of a person (@bob, who
must be there) or of an nkey. The servers refuse both: only the holder of an nkey
may read them. Exit code 0 says that both were refused, 1 that one was not.`,
		Example: `  chat snoop @bob`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runSnoop(cmd.Context(), g, args[0]) },
	}
}

func runSnoop(ctx context.Context, g *globals, target string) (err error) {
	if _, kerr := ident.ParseUserKey(target); kerr != nil {
		if _, person, perr := parseTarget(target); perr != nil || person.IsZero() {
			return cli.Errorf(cli.Usage, "write @bob, or an nkey that begins with U", "%q is no person", target)
		}
	}
	r, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	key, err := findKey(ctx, r, target)
	if err != nil {
		return err
	}
	for _, subj := range []string{subject.DM(r.room, key), subject.UserInboxPrefix(key) + ".>"} {
		err := tryRead(ctx, r, subj)
		if !errors.Is(err, bus.ErrRefused) {
			return cli.Errorf(cli.Failed, "the roles of this platform are not those of Herald: tell its operator", "%s was not refused (%v)", subj, err)
		}
		if g.json {
			err = cli.JSON(g.Out, map[string]any{"event": "refused", "subject": subj, "error": chat.Clean(err.Error())})
		} else {
			err = cli.Print(g.Out, "%s\n", chat.Clean(err.Error()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tryRead subscribes and gives the server's answer: bus.ErrRefused with its
// words, or nil if it was allowed.
func tryRead(ctx context.Context, r *room, subj string) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	sub, err := r.conn.SubscribeSync(subj)
	if err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // refused ones are gone already
	// The server answers in order: once it has answered the ping behind the
	// subscription, a refusal has come.
	if err := r.conn.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	_, err = sub.NextMsg(time.Millisecond)
	if errors.Is(err, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w: %w", bus.ErrRefused, err)
	}
	return nil
}

// findKey is the nkey of a person who is there, or an nkey as given.
func findKey(ctx context.Context, r *room, target string) (ident.UserKey, error) {
	if key, err := ident.ParseUserKey(target); err == nil {
		return key, nil
	}
	_, person, err := parseTarget(target)
	if err != nil || person.IsZero() {
		return ident.UserKey{}, cli.Errorf(cli.Usage, "write @bob, or an nkey that begins with U", "%q is no person", target)
	}
	ctx, cancel := context.WithTimeout(ctx, chat.HeartbeatEvery+5*time.Second)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return ident.UserKey{}, fmt.Errorf("%s: %w", target, bus.ErrNotHere)
		case e, ok := <-r.bus.Events():
			if !ok {
				return ident.UserKey{}, fmt.Errorf("%s: %w", target, bus.ErrClosed)
			}
			if m, is := e.(chat.Received); is && m.Message.Name == person {
				return m.Message.From, nil
			}
		}
	}
}
