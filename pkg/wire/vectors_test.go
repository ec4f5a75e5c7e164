package wire_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/keystore"
	"github.com/herald-nats/herald/pkg/wire"
)

// The test vectors are for writers of clients in other languages: docs/protocol.md
// points at them. They hold no seeds. What was signed in them was signed by keys
// whose seeds nobody kept, or by those of the worked example, which anybody can count.

type decoded struct {
	UserKey  string `json:"user_key"`
	Time     int64  `json:"time"`
	Nonce    string `json:"nonce"`
	Account  string `json:"account"`
	Role     string `json:"role"`
	Name     string `json:"name"`
	TTL      int64  `json:"ttl_ns"`
	ReplyKey string `json:"reply_key"`
	Identity string `json:"identity_type"`
}

func vectors[T any](t *testing.T, name string) []T {
	t.Helper()
	data := must[[]byte](t)(os.ReadFile(filepath.Join("testdata", name)))
	if regexp.MustCompile(`\bS[UAONCX][A-Z2-7]{56}\b`).Match(data) {
		t.Fatalf("%s holds a seed", name)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var v []T
	if err := dec.Decode(&v); err != nil || len(v) == 0 {
		t.Fatalf("%s: %d vectors, %v", name, len(v), err)
	}
	return v
}

func TestRequestVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range vectors[struct {
		Name    string    `json:"name"`
		Body    string    `json:"body"`
		Base64  string    `json:"body_base64"` // where the bytes are no JSON text
		Proof   string    `json:"herald_proof"`
		UserKey string    `json:"user_key"`
		Decoded *decoded  `json:"decoded"`
		Error   wire.Code `json:"error"`
	}](t, "requests.json") {
		if seen[v.Name] {
			t.Errorf("two vectors are called %q", v.Name)
		}
		seen[v.Name] = true
		body := []byte(v.Body)
		if v.Base64 != "" {
			body = unbase64(t, v.Base64)
		}
		r, err := wire.DecodeRequest(body)
		if v.Decoded != nil {
			got := decoded{
				r.UserKey.String(), r.Time.UnixMilli(), r.Nonce, r.Account.String(), r.Role.String(), r.Name.String(),
				int64(r.TTL), r.ReplyKey.String(), r.Identity.Type,
			}
			if err != nil || got != *v.Decoded {
				t.Errorf("%s: %v\n got %+v\nwant %+v", v.Name, err, got, *v.Decoded)
			}
		}
		if err == nil && v.UserKey != "" {
			err = wire.CheckProof(must[ident.UserKey](t)(ident.ParseUserKey(v.UserKey)), []string{v.Proof}, body)
		}
		if code(err) != v.Error {
			t.Errorf("%s: got %v, want %q", v.Name, err, v.Error)
		}
	}
}

// TestIdentityVectors: what shows who asks. The keys are counted ones: the user's begins at
// 00, the region's at 20, the access key at 80, the sender's of sealed bodies at a0.
func TestIdentityVectors(t *testing.T) {
	user, access := userKey(t, counted(t, keystore.User, 0)), userKey(t, counted(t, keystore.User, 0x80))
	region, sender := counted(t, keystore.Curve, 0x20), sealKey(t, counted(t, keystore.Curve, 0xa0))
	seen := map[string]bool{}
	good := map[string]int{}
	for _, v := range vectors[struct {
		Name          string    `json:"name"`
		Body          string    `json:"body"`
		Proof         string    `json:"herald_proof"`
		IdentityProof string    `json:"herald_identity_proof"` // absent: the header is not there
		KeyID         string    `json:"key_id"`
		Code          string    `json:"code"`
		Token         string    `json:"token"`
		InviteID      string    `json:"invite_id"`        // by which the ledger knows the code
		SealedBy      string    `json:"herald_sealed"`    // the body as it is sent
		Sealed        string    `json:"sealed_base64url"` // to the region key
		Error         wire.Code `json:"error"`
	}](t, "identities.json") {
		if seen[v.Name] {
			t.Errorf("two vectors are called %q", v.Name)
		}
		seen[v.Name] = true
		body := []byte(v.Body)
		r, err := wire.DecodeRequest(body)
		if err == nil {
			if id := r.Identity; id.KeyID.String() != v.KeyID || id.Code != v.Code || id.Token != v.Token || id.Secret() != (v.Sealed != "") {
				t.Errorf("%s: %+v", v.Name, id)
			}
			err = wire.CheckProof(user, []string{v.Proof}, body)
		}
		if err == nil && r.Identity.Type == wire.ProofKey {
			var headers []string
			if v.IdentityProof != "" {
				headers = append(headers, v.IdentityProof)
			}
			err = wire.CheckIdentityProof(access, headers, body)
		}
		if code(err) != v.Error {
			t.Errorf("%s: got %v, want %q", v.Name, err, v.Error)
		}
		if v.Error == "" {
			good[r.Identity.Type]++
		}
		if v.Code != "" && ident.InviteOf(v.Code).String() != v.InviteID {
			t.Errorf("%s: the invitation is %s", v.Name, ident.InviteOf(v.Code))
		}
		if v.Sealed == "" {
			continue
		}
		opened, oerr := wire.Open(region.Pair(), sender, unbase64(t, v.Sealed))
		if oerr != nil || string(opened) != v.Body || v.SealedBy != sender.String() {
			t.Errorf("%s: opened %q %v", v.Name, opened, oerr)
		}
	}
	if len(good) != 3 {
		t.Errorf("accepted are %v", good)
	}
}

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	return must[[]byte](t)(base64.RawURLEncoding.DecodeString(s))
}

func TestErrorVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Name   string      `json:"name"`
		Number int         `json:"number"`
		Body   string      `json:"body"`
		Want   *wire.Error `json:"decoded"` // absent: to be refused
	}](t, "errors.json") {
		e, err := wire.DecodeError([]byte(v.Body))
		if v.Want == nil {
			if err == nil {
				t.Errorf("%s is accepted", v.Name)
			}
			continue
		}
		if err != nil || *e != *v.Want || e.Code.Number() != v.Number {
			t.Errorf("%s: %+v %v", v.Name, e, err)
		}
	}
}

func TestAnswerVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Name string       `json:"name"`
		Body string       `json:"body"`
		Want *wire.Answer `json:"decoded"` // absent: to be refused
	}](t, "answers.json") {
		a, err := wire.DecodeAnswer([]byte(v.Body))
		if v.Want == nil {
			if err == nil {
				t.Errorf("%s is accepted", v.Name)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(a, *v.Want) {
			t.Errorf("%s: %+v %v", v.Name, a, err)
		}
	}
}

func TestRequestInfoVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Name   string            `json:"name"`
		Values []string          `json:"nats_request_info"`
		Want   *wire.RequestInfo `json:"decoded"` // absent: to be refused
	}](t, "request-info.json") {
		i, err := wire.DecodeRequestInfo(v.Values)
		if v.Want == nil {
			if err == nil {
				t.Errorf("%s is accepted", v.Name)
			}
			continue
		}
		if err != nil || i != *v.Want {
			t.Errorf("%s: %+v %v", v.Name, i, err)
		}
	}
}

// example is the section "Worked example" of docs/protocol.md.
func example(t *testing.T) string {
	t.Helper()
	doc := string(must[[]byte](t)(os.ReadFile("../../docs/protocol.md")))
	_, doc, ok := strings.Cut(doc, "\n## Worked example\n")
	if !ok {
		t.Fatal("docs/protocol.md has no worked example")
	}
	doc, _, _ = strings.Cut(doc, "\n## ")
	return doc
}

// block is the first code block behind a text.
func block(t *testing.T, doc, behind string) string {
	t.Helper()
	_, doc, ok := strings.Cut(doc, behind)
	_, doc, open := strings.Cut(doc, "```\n")
	doc, _, end := strings.Cut(doc, "\n```")
	if !ok || !open || !end {
		t.Fatalf("no code block behind %q", behind)
	}
	return doc
}

// counted is the key of the 32 bytes from first on.
func counted(t *testing.T, kind keystore.Kind, first byte) *keystore.Key {
	t.Helper()
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = first + byte(i)
	}
	return fromRaw(t, kind, raw)
}

// TestWorkedExample checks each step of the example in docs/protocol.md.
func TestWorkedExample(t *testing.T) {
	doc := example(t)
	user, region, reply := counted(t, keystore.User, 0), counted(t, keystore.Curve, 0x20), counted(t, keystore.Curve, 0x40)
	access := counted(t, keystore.User, 0x80)
	for what, k := range map[string]*keystore.Key{"user": user, "region key": region, "reply key": reply, "access key": access} {
		if !regexp.MustCompile(`(?m)^\| ` + what + ` \|.*\| ` + "`" + k.Public() + "`" + ` \|$`).MatchString(doc) {
			t.Errorf("the %s is not %s", what, k.Public())
		}
	}

	body := []byte(block(t, doc, "**Request.**"))
	if !strings.Contains(doc, strconv.Itoa(len(body))+" bytes, one line") {
		t.Errorf("the body has %d bytes", len(body))
	}
	nonce := make([]byte, 16)
	for i := range nonce {
		nonce[i] = 0x60 + byte(i)
	}
	want := wire.Request{
		UserKey: userKey(t, user), Time: time.UnixMilli(1790000000123), Nonce: base64.RawURLEncoding.EncodeToString(nonce),
		Name: must[ident.Name](t)(ident.ParseName("alice")), TTL: 30 * time.Minute, ReplyKey: sealKey(t, reply), Identity: wire.Proof{Type: "open"},
	}
	if r, err := wire.DecodeRequest(body); err != nil || r != want {
		t.Errorf("the request: %+v %v", r, err)
	}
	// Ours writes a ttl as Go does (30m0s); the rest is the same, byte for byte.
	if ours := must[[]byte](t)(want.Encode()); strings.Replace(string(ours), "30m0s", "30m", 1) != string(body) {
		t.Errorf("the client of this project writes\n%s", ours)
	}

	header := block(t, doc, "**Proof.**")
	proof, ok := strings.CutPrefix(header, wire.HeaderProof+": ")
	if !ok {
		t.Fatalf("the proof's header: %s", header)
	}
	if err := wire.CheckProof(want.UserKey, []string{proof}, body); err != nil {
		t.Errorf("the proof: %v", err)
	}
	if ours := must[string](t)(wire.Prove(user, body)); ours != proof {
		t.Errorf("the proof should be %s", ours)
	}
	// As the page says it, without our code.
	pub := must[nkeys.KeyPair](t)(nkeys.FromPublicKey(user.Public()))
	if err := pub.Verify([]byte("herald/v1/auth.v1.issue\n"+string(body)), unbase64(t, strings.TrimPrefix(proof, "v1 "))); err != nil {
		t.Errorf("the proof, by hand: %v", err)
	}

	byKey := []byte(block(t, doc, "**With an access key.**"))
	if !strings.Contains(doc, strconv.Itoa(len(byKey))+" bytes with the other identity") {
		t.Errorf("the body with an access key has %d bytes", len(byKey))
	}
	if r, err := wire.DecodeRequest(byKey); err != nil || r.Identity.Type != wire.ProofKey || r.Name != want.Name {
		t.Errorf("the request with an access key: %+v %v", r, err)
	}
	both := block(t, doc, "Both signatures are over it:")
	if ours := wire.HeaderProof + ": " + must[string](t)(wire.Prove(user, byKey)) + "\n" + wire.HeaderIdentity + ": " + must[string](t)(wire.Prove(access, byKey)); ours != both {
		t.Errorf("the headers with an access key should be\n%s", ours)
	}

	plain := []byte(block(t, doc, "**A sealed answer.**"))
	if !strings.Contains(doc, "The plain body, "+strconv.Itoa(len(plain))+" bytes") {
		t.Errorf("the plain answer has %d bytes", len(plain))
	}
	e, err := wire.DecodeError(plain)
	if err != nil || e.Code != wire.NameTaken {
		t.Fatalf("the answer: %v", err)
	}
	headers := map[string]string{}
	for line := range strings.Lines(block(t, doc, "The headers, in the clear:")) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		headers[k] = v
	}
	if !reflect.DeepEqual(headers, map[string]string{
		wire.HeaderErrorCode: strconv.Itoa(e.Code.Number()), wire.HeaderError: string(e.Code), // the message would tell the name
		wire.HeaderSealed: region.Public(), wire.HeaderRequestID: e.RequestID,
	}) {
		t.Errorf("the headers: %v", headers)
	}
	sealed := unbase64(t, block(t, doc, "In base64url:"))
	if !strings.Contains(doc, "is "+strconv.Itoa(len(sealed))+" raw bytes") {
		t.Errorf("the sealed answer has %d bytes", len(sealed))
	}
	opened, err := wire.Open(reply.Pair(), sealKey(t, region), sealed)
	if err != nil || !bytes.Equal(opened, plain) {
		t.Errorf("opened: %q %v", opened, err)
	}
	stream := make([]byte, 24)
	for i := range stream {
		stream[i] = 0x70 + byte(i)
	}
	again := must[[]byte](t)(region.Pair().SealWithRand(plain, reply.Public(), bytes.NewReader(stream)))
	if !bytes.Equal(again, sealed) {
		t.Error("sealing it with the nonce that the page says gives other bytes")
	}
}
