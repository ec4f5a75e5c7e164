package rightstest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/herald-nats/herald/pkg/subject"
)

// patience bounds every wait for a server.
const patience = 10 * time.Second

// raw speaks the client protocol over TCP and hides nothing: it sends the
// headers and reply subjects that it is told to, and keeps every error.
type raw struct {
	t     *testing.T
	conn  net.Conn
	in    *bufio.Reader
	inbox string
	sid   int
	count int
	msgs  []msg
	errs  []string
}

// msg is a message as it came: the header block as bytes too.
type msg struct {
	subject, reply string
	sid            int
	header         []byte
	body           []byte
}

// get is the value of a header.
func (m msg) get(name string) string {
	for line := range strings.SplitSeq(string(m.header), "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && k == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (m msg) all() []byte {
	return append(append([]byte(m.subject+" "+m.reply+"\n"), m.header...), m.body...)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// header makes a header block of names and values.
func header(pairs ...string) []byte {
	var b bytes.Buffer
	b.WriteString("NATS/1.0\r\n")
	for p := range slices.Chunk(pairs, 2) {
		b.WriteString(strings.Join(p, ": ") + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// dial connects with a credential; the error is the server's.
func dial(t *testing.T, u user, server string) (*raw, error) {
	t.Helper()
	at, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	r, nonce := greet(t, at.Host)
	connect := map[string]any{
		"jwt": u.token, "sig": r.sign(u, nonce), "verbose": false, "pedantic": false,
		"headers": true, "no_responders": true, "protocol": 1, "lang": "raw", "version": "0",
	}
	r.inbox = subject.UserInboxPrefix(u.nkey())
	r.write("CONNECT ", must(json.Marshal(connect)), "\r\nPING\r\n")
	if err := r.until("PONG"); err != nil {
		return nil, fmt.Errorf("%w %v", err, r.errs)
	}
	return r, nil
}

// greet opens a connection and reads the server's INFO.
func greet(t *testing.T, addr string) (*raw, string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // may be closed already
	if err := conn.SetDeadline(time.Now().Add(3 * patience)); err != nil {
		t.Fatal(err)
	}
	r := &raw{t: t, conn: conn, in: bufio.NewReader(conn)}
	line, err := r.in.ReadString('\n')
	if err != nil {
		t.Fatalf("no INFO: %v", err)
	}
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatalf("INFO: %v", err)
	}
	return r, info.Nonce
}

func (r *raw) sign(u user, nonce string) string {
	sig, err := u.key.Sign([]byte(nonce))
	if err != nil {
		r.t.Fatal(err)
	}
	return b64(sig)
}

// enter is dial that must succeed.
func enter(t *testing.T, u user, in string) *raw {
	t.Helper()
	r, err := dial(t, u, urls(in)[0])
	if err != nil {
		t.Fatalf("%s is refused: %v", u.what, err)
	}
	return r
}

func (r *raw) write(parts ...any) {
	r.t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b.WriteString(p)
		case []byte:
			b.Write(p)
		case int:
			b.WriteString(strconv.Itoa(p))
		default:
			r.t.Fatalf("cannot write a %T", p)
		}
	}
	if _, err := r.conn.Write(b.Bytes()); err != nil {
		r.t.Fatalf("writing: %v", err)
	}
}

func (r *raw) sub(subj, queue string) int {
	r.t.Helper()
	r.sid++
	r.write("SUB ", strings.TrimSuffix(subj+" "+queue, " "), " ", r.sid, "\r\n")
	return r.sid
}

func (r *raw) pub(subj, reply string, head, body []byte) {
	r.t.Helper()
	to := subj
	if reply != "" {
		to += " " + reply
	}
	if head == nil {
		r.write("PUB ", to, " ", len(body), "\r\n", body, "\r\n")
		return
	}
	r.write("HPUB ", to, " ", len(head), " ", len(head)+len(body), "\r\n", head, body, "\r\n")
}

// errClosed: the server ended the connection.
var errClosed = errors.New("closed by the server")

// until reads up to a line that begins with want.
func (r *raw) until(want string) error {
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset") {
				return errClosed
			}
			return fmt.Errorf("reading: %w", err)
		}
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "MSG", "HMSG":
			if err := r.message(word == "HMSG", strings.Fields(rest)); err != nil {
				return err
			}
		case "-ERR":
			r.errs = append(r.errs, rest)
		case "PING":
			r.write("PONG\r\n")
		}
		if strings.HasPrefix(line, want) {
			return nil
		}
	}
}

// message reads the rest of MSG subject sid [reply] size, or of HMSG subject
// sid [reply] header-size size.
func (r *raw) message(headers bool, f []string) error {
	tail := 1
	if headers {
		tail = 2
	}
	if len(f) < 2+tail {
		return fmt.Errorf("a message line of %d words", len(f))
	}
	m := msg{subject: f[0]}
	var err error
	if m.sid, err = strconv.Atoi(f[1]); err != nil {
		return err
	}
	if len(f) > 2+tail {
		m.reply = f[2]
	}
	total, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return err
	}
	head := 0
	if headers {
		if head, err = strconv.Atoi(f[len(f)-2]); err != nil {
			return err
		}
	}
	data := make([]byte, total+2)
	if _, err := io.ReadFull(r.in, data); err != nil {
		return err
	}
	m.header, m.body = data[:head], data[head:total]
	r.msgs = append(r.msgs, m)
	return nil
}

// sync returns when the server has done all that it was sent, with the errors
// that it gave meanwhile.
func (r *raw) sync() []string {
	r.t.Helper()
	r.write("PING\r\n")
	if err := r.until("PONG"); err != nil {
		r.t.Fatalf("waiting for the server: %v %v", err, r.errs)
	}
	errs := r.errs
	r.errs = nil
	return errs
}

// allowed is sync that must give no error.
func (r *raw) allowed(what string) {
	r.t.Helper()
	if errs := r.sync(); len(errs) > 0 {
		r.t.Fatalf("%s: %v", what, errs)
	}
}

// wait gives the first message that fits and forgets it. It fails the test if
// none comes.
func (r *raw) wait(what string, fits func(msg) bool) msg {
	r.t.Helper()
	for {
		for i, m := range r.msgs {
			if fits(m) {
				r.msgs = append(r.msgs[:i:i], r.msgs[i+1:]...)
				return m
			}
		}
		have := len(r.msgs)
		for len(r.msgs) == have {
			if err := r.until(""); err != nil {
				r.t.Fatalf("waiting for %s: %v %v; %d other messages", what, err, r.errs, len(r.msgs))
			}
		}
	}
}

// ask sends a request with a reply in the inbox and waits for the answer.
func (r *raw) ask(subj string, head, body []byte) msg {
	r.t.Helper()
	if r.count == 0 {
		r.sub(r.inbox+".>", "")
	}
	r.count++
	reply := r.inbox + ".ask" + strconv.Itoa(r.count)
	r.pub(subj, reply, head, body)
	return r.wait("an answer to "+subj, func(m msg) bool { return m.subject == reply })
}
