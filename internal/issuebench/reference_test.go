package issuebench

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/internal/natsconn"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/platform"
	"github.com/herald-nats/herald/pkg/provision"
	"github.com/herald-nats/herald/pkg/subject"
	"github.com/herald-nats/herald/pkg/wire"
)

// References answer in the issuer's place, with its credential, on its subjects in AUTH, while
// it is stopped. So everything but the answering is the same: the connections that ask, the
// imports, what the servers say of who asks, the region's servers and their routes. They write
// no log and no record, look at nothing that a server says of who asks, and take any request.

// sizes are those of what an issuer gives: how much is signed, and how much is answered.
type sizes struct{ signed, answer int }

// sizesOf looks at one answer.
func sizesOf(tb testing.TB, m *nats.Msg) sizes {
	tb.Helper()
	a, err := wire.DecodeAnswer(m.Data)
	if err != nil {
		tb.Fatal(err)
	}
	return sizes{signed: strings.LastIndexByte(a.JWT, '.'), answer: len(m.Data)}
}

// reference is somebody who answers instead of an issuer.
type reference struct {
	nc *nats.Conn
	// failed is how many requests were not what they are always.
	failed atomic.Int64
}

func (r *reference) stop(tb testing.TB) {
	tb.Helper()
	r.nc.Close()
	if n := r.failed.Load(); n > 0 {
		tb.Errorf("%d requests could not be verified", n)
	}
}

// answering starts a reference. answer runs on the subscription's goroutine.
func (w *world) answering(tb testing.TB, subj string, answer func(r *reference, m *nats.Msg)) *reference {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	creds := natsconn.FileCredential{Path: filepath.Join(platform.Dir(w.Dir).Issuer(w.home), platform.AuthCreds)}
	self := must(ident.ParseUserKey(must(creds.User())))
	r := &reference{}
	var err error
	as(ctx, partReference, func(ctx context.Context) {
		r.nc, err = natsconn.Dial(ctx, natsconn.Options{
			URLs: w.urls(w.home), Name: "reference", Credential: creds, InboxPrefix: subject.ServiceInboxPrefix(self),
		})
		if err != nil {
			return
		}
		if _, err = r.nc.QueueSubscribe(subj, provision.Queue, func(m *nats.Msg) { answer(r, m) }); err == nil {
			err = r.nc.Flush()
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// atWork is how many requests a reference works on at once, as an issuer does.
const atWork = 256

// bareIssue verifies that the user's key and the access key signed, signs as much as a user
// JWT, and answers as many bytes as an issuer: what cannot be left out.
func (w *world) bareIssue(tb testing.TB, s sizes) *reference {
	tb.Helper()
	access := raw(w.secret.Public())
	role := must(keystore.Generate(keystore.Account))
	payload, answer := make([]byte, s.signed), bytes.Repeat([]byte("a"), s.answer)
	slots := make(chan struct{}, atWork)
	const prefix, key = "v1 ", `{"user_key":"`
	verified := func(pub ed25519.PublicKey, proof string, body []byte) bool {
		sig, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(proof, prefix))
		return err == nil && ed25519.Verify(pub, append([]byte("herald/v1/"+subject.Issue+"\n"), body...), sig)
	}
	return w.answering(tb, subject.Issue, func(r *reference, m *nats.Msg) {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			user := raw(string(m.Data[len(key) : len(key)+56])) // the first member of all requests of the benchmark
			if !verified(user, m.Header.Get(wire.HeaderProof), m.Data) || !verified(access, m.Header.Get(wire.HeaderIdentity), m.Data) {
				r.failed.Add(1)
				return
			}
			_ = must(role.Sign(payload))
			_ = m.Respond(answer) // who asked waits in vain, and says so
		}()
	})
}

// raw are the bytes of a public key.
func raw(pub string) ed25519.PublicKey { return must(nkeys.Decode(nkeys.PrefixByteUser, []byte(pub))) }

// bareRenew signs as much as a user JWT, and answers.
func (w *world) bareRenew(tb testing.TB, s sizes) *reference {
	tb.Helper()
	role := must(keystore.Generate(keystore.Account))
	payload, answer := make([]byte, s.signed), bytes.Repeat([]byte("a"), s.answer)
	slots := make(chan struct{}, atWork)
	return w.answering(tb, subject.Renew, func(_ *reference, m *nats.Msg) {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			_ = must(role.Sign(payload))
			_ = m.Respond(answer)
		}()
	})
}

// usual is how services that give credentials are usually written: one subscription's
// callback makes a key for the user, a JWT with jwt/v2, and a creds file of both.
func (w *world) usual(tb testing.TB, subj string) *reference {
	tb.Helper()
	account, signing := must(nkeys.CreateAccount()), must(nkeys.CreateAccount())
	issuer := must(account.PublicKey())
	return w.answering(tb, subj, func(_ *reference, m *nats.Msg) {
		user := must(nkeys.CreateUser())
		claims := jwt.NewUserClaims(must(user.PublicKey()))
		claims.Name, claims.IssuerAccount, claims.Expires = "bench", issuer, time.Now().Add(time.Hour).Unix()
		claims.Tags.Add("identity:key", "kid:hk7qk3m2zc5dxe4b6fan")
		_ = m.Respond(must(jwt.FormatUserConfig(must(claims.Encode(signing)), must(user.Seed()))))
	})
}
