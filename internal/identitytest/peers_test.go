package identitytest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/client"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// user is a credential, its key and what it is called.
type user struct {
	token string
	key   *keystore.Key
	name  ident.Name
}

func (u user) nkey() ident.UserKey { return must(ident.ParseUserKey(u.key.Public())) }

// obtained is a user by an access key for a role.
func obtained(t *testing.T, role, prefix string) user {
	t.Helper()
	called := shared.Name(prefix)
	id := accessKey(t, "--grant", role, "--name", called.String())
	key := newKey(t)
	c, err := issue(t, guest(t, region("ams")), key, client.Wish{Identity: id}, wire.BadIdentity)
	if err != nil {
		t.Fatal(err)
	}
	return user{c.JWT, key, called}
}

// minted is a user of a role as whoever has the role's key can make one.
func minted(t *testing.T, p *platform.Platform, account, role string) user {
	t.Helper()
	u, err := p.Mint(account, role, time.Now(), 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return user{token: u.Token, key: u.Key}
}

// first is the first server of home, where those connect whose messages meet in one server.
func first() string { return urls(region("ams"))[0] }

// dial connects to a server; what the server refuses later comes by the channer.
func (u user) dial(t *testing.T, url, inbox string) (*nats.Conn, <-chan error, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	refused := make(chan error, 10)
	nc, err := natsconn.Dial(ctx, natsconn.Options{
		URLs: []string{url}, Name: "test", InboxPrefix: inbox, Credential: natsconn.Static{Token: u.token, Key: u.key},
		OnError: func(_ *nats.Subscription, err error) { refused <- err },
	})
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, refused, err
}

// enter is dial of a member that must succeed.
func (u user) enter(t *testing.T) (*nats.Conn, <-chan error) {
	t.Helper()
	nc, refused, err := u.dial(t, first(), subject.UserInboxPrefix(u.nkey()))
	if err != nil {
		t.Fatal(err)
	}
	return nc, refused
}

// inside is dial of a service's user, whose inbox is another.
func (u user) inside(t *testing.T, url string) (*nats.Conn, <-chan error) {
	t.Helper()
	nc, refused, err := u.dial(t, url, subject.ServiceInboxPrefix(u.nkey()))
	if err != nil {
		t.Fatal(err)
	}
	return nc, refused
}

// leaf is a connection as a leafnode's. It says what it is told to: a server in its place
// could be one that somebody has changed.
type leaf struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	n    int
}

// leafnode connects as a leafnode to the first server of home. The error is what the server
// said.
func (u user) leafnode(t *testing.T) (*leaf, error) {
	t.Helper()
	home, _ := shared.Up.Platform.File.Region(shared.Up.Platform.File.Home)
	conn, err := net.DialTimeout("tcp", home.Nodes[0].Leafnode, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it
	must(0, conn.SetDeadline(time.Now().Add(30*time.Second)))
	l := &leaf{t: t, conn: conn, in: bufio.NewReader(conn)}
	line, err := l.in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Nonce string }
	must(0, json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info))
	hello := must(json.Marshal(map[string]any{
		"jwt": u.token, "sig": base64.RawURLEncoding.EncodeToString(must(u.key.Sign([]byte(info.Nonce)))),
		"server_id": "NLEAF", "name": "leaf", "cluster": "leafs", "version": "2.15.2", "headers": true, "protocol": 1,
	}))
	l.write("CONNECT " + string(hello) + "\r\nPING\r\n")
	_, _, err = l.until("PONG", "")
	return l, err
}

func (l *leaf) write(s string) {
	l.t.Helper()
	if _, err := io.WriteString(l.conn, s); err != nil {
		l.t.Fatal(err)
	}
}

// until reads up to a word, or up to a message on a subject, which it gives.
func (l *leaf) until(want, subj string) (header, body string, err error) {
	l.t.Helper()
	for {
		line, err := l.in.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "-ERR":
			return "", "", fmt.Errorf("%s", rest)
		case "PING":
			l.write("PONG\r\n")
		case "LMSG", "HMSG":
			f := strings.Fields(rest)
			size, head := must(strconv.Atoi(f[len(f)-1])), 0
			if word == "HMSG" {
				head = must(strconv.Atoi(f[len(f)-2]))
			}
			data := make([]byte, size+2)
			if _, err := io.ReadFull(l.in, data); err != nil {
				return "", "", err
			}
			if f[0] == subj {
				return string(data[:head]), string(data[head:size]), nil
			}
		}
		if word == want {
			return "", "", nil
		}
	}
}

// ask sends a request in which somebody says who asks, and whose answer comes on a reply
// that begins so.
func (l *leaf) ask(subj, prefix string, says ...string) *nats.Msg {
	l.t.Helper()
	l.n++
	reply := prefix + "." + strconv.Itoa(l.n)
	head := "NATS/1.0\r\n"
	for _, v := range says {
		head += wire.HeaderInfo + ": " + v + "\r\n"
	}
	head += "\r\n"
	l.write(fmt.Sprintf("LS+ %s\r\nHMSG %s + %s issuer %d %d\r\n%s\r\n", reply, subj, reply, len(head), len(head), head))
	header, body, err := l.until("", reply)
	if err != nil {
		l.t.Fatalf("waiting for an answer: %v", err)
	}
	m := nats.NewMsg(reply)
	m.Data = []byte(body)
	for line := range strings.SplitSeq(header, "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m.Header.Add(k, strings.TrimSpace(v))
		}
	}
	return m
}
