package permtest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// patience bounds all that one connection does.
const patience = 20 * time.Second

// raw speaks the client protocol over TCP: it sends what a client library would not,
// and keeps every error.
type raw struct {
	conn net.Conn
	in   *bufio.Reader
	out  bytes.Buffer
	msgs []msg
	errs []string
}

type msg struct {
	subject, sid, reply string
	body                []byte
}

// errRefused: the server did not take the credential.
var errRefused = errors.New("refused")

// dial connects as a user.
func dial(addr string, u user) (_ *raw, err error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	r := &raw{conn: conn, in: bufio.NewReaderSize(conn, 1<<16)}
	line, err := r.in.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("no INFO: %w", err)
	}
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		return nil, fmt.Errorf("INFO: %w", err)
	}
	sig, err := u.key.Sign([]byte(info.Nonce))
	if err != nil {
		return nil, err
	}
	connect, err := json.Marshal(map[string]any{
		"jwt": u.token, "sig": base64.RawURLEncoding.EncodeToString(sig), "verbose": false, "pedantic": false,
		"echo": false, "headers": true, "protocol": 1, "lang": "raw", "version": "0",
	})
	if err != nil {
		return nil, err
	}
	r.send("CONNECT ", string(connect))
	if err := r.sync(); err != nil {
		if len(r.errs) == 1 && strings.Contains(r.errs[0], "Authorization Violation") {
			return nil, errRefused
		}
		return nil, fmt.Errorf("connecting: %w %q", err, r.errs)
	}
	return r, nil
}

func (r *raw) close() { _ = r.conn.Close() } // the server may have been first

// send puts a line into what the next sync sends.
func (r *raw) send(parts ...string) {
	for _, p := range parts {
		r.out.WriteString(p)
	}
	r.out.WriteString("\r\n")
}

func (r *raw) pub(subj, reply string, body []byte) {
	r.send("PUB ", subj, " ", reply, " ", strconv.Itoa(len(body)))
	r.send(string(body))
}

func (r *raw) sub(subj, queue, sid string) { r.send("SUB ", subj, " ", queue, " ", sid) }

// sync sends, and returns when the server has done all of it. What it said meanwhile is in
// msgs and errs.
func (r *raw) sync() error {
	r.send("PING")
	if _, err := r.out.WriteTo(r.conn); err != nil {
		return err
	}
	return r.until("PONG")
}

// next waits for a message.
func (r *raw) next() (msg, error) {
	for len(r.msgs) == 0 {
		if err := r.until(""); err != nil {
			return msg{}, err
		}
	}
	m := r.msgs[0]
	r.msgs = r.msgs[1:]
	return m, nil
}

// until reads up to a line that begins with want.
func (r *raw) until(want string) error {
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		line = strings.TrimSuffix(line, "\r\n")
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "MSG", "HMSG":
			if err := r.message(strings.Split(rest, " ")); err != nil {
				return err
			}
		case "-ERR":
			r.errs = append(r.errs, rest)
		case "PING":
			if _, err := io.WriteString(r.conn, "PONG\r\n"); err != nil {
				return err
			}
		}
		if strings.HasPrefix(line, want) {
			return nil
		}
	}
}

// message reads the rest of a message; headers stay in its body.
func (r *raw) message(f []string) error {
	size, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return err
	}
	body := make([]byte, size+2)
	if _, err := io.ReadFull(r.in, body); err != nil {
		return err
	}
	m := msg{subject: f[0], sid: f[1], body: body[:size]}
	if len(f) > 3 {
		m.reply = f[2]
	}
	r.msgs = append(r.msgs, m)
	return nil
}

// violations are the errors since the last time, and how often each came.
func (r *raw) violations() map[string]int {
	seen := map[string]int{}
	for _, e := range r.errs {
		seen[strings.Trim(e, "'")]++
	}
	r.errs = nil
	return seen
}
