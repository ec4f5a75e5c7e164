package trust

import (
	"fmt"
	"time"

	"github.com/herald-nats/herald/pkg/keystore"
)

// kindReceipt is the kind of a receipt's document.
const kindReceipt = "herald-receipt"

// maxReceipt bounds the token of a receipt.
const maxReceipt = 256 << 10

// Receipt is a registrar's word on who was denied, and which servers know: a NATS JWT (generic
// claims) by an operator signing key. It says what was so at its moment.
type Receipt struct {
	ID        string    `json:"-"`          // of the request
	At        time.Time `json:"-"`          // to the second
	Signer    string    `json:"-"`          // the operator signing key; OpenReceipt sets it
	Registrar string    `json:"registrar"`  // its own user nkey
	Region    string    `json:"region"`     // and where it is
	Verb      string    `json:"verb"`       // what was asked for
	Of        []string  `json:"of"`         // keys of the ledger
	By        string    `json:"by"`         // who asked
	Why       string    `json:"why"`        // and why
	Users     []Revoked `json:"users"`      // whose credentials are dead
	More      int       `json:"more"`       // and how many others are, who are not listed
	Servers   int       `json:"servers"`    // that there should be
	Denied    int       `json:"denied"`     // that hold all of it
	Behind    []Lagging `json:"behind"`     // those that do not, as far as they are known
	Open      int       `json:"open"`       // connections by auth callout that are not closed yet
	AdminUser string    `json:"admin_user"` // the nkey that asked
}

// Revoked is a user whose credentials up to a moment are dead in an account; User is "*" where
// those of everybody are.
type Revoked struct {
	Account string `json:"account"`
	User    string `json:"user"`
	Before  int64  `json:"before"` // seconds since 1970
}

// Lagging is a server that does not know yet, and why.
type Lagging struct {
	Server string `json:"server"`
	Why    string `json:"why"`
}

type receiptClaims struct {
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Nats     struct {
		Type    string  `json:"type"`
		Version int     `json:"version"`
		Body    Receipt `json:"body"`
	} `json:"nats"`
}

// Sign gives the receipt as a JWT by an operator signing key.
func (r Receipt) Sign(key *keystore.Key) (string, error) {
	var c receiptClaims
	c.ID, c.IssuedAt, c.Issuer, c.Subject = r.ID, r.At.Unix(), key.Public(), r.Registrar
	c.Nats.Type, c.Nats.Version, c.Nats.Body = kindReceipt, 2, r
	token, err := EncodeJWT(c, key)
	if err != nil {
		return "", fmt.Errorf("signing a receipt: %w", err)
	}
	if len(token) > maxReceipt {
		return "", fmt.Errorf("signing a receipt: it has %d bytes", len(token))
	}
	return token, nil
}

// OpenReceipt verifies a receipt: that an operator signing key of this platform made it.
func (o *Operator) OpenReceipt(token string) (Receipt, error) {
	var c receiptClaims
	if err := o.open(token, "a receipt", maxReceipt, &c, &c.Issuer); err != nil {
		return Receipt{}, err
	}
	if c.Nats.Type != kindReceipt || c.Nats.Version != 2 {
		return Receipt{}, fmt.Errorf("a document of kind %.40q where a receipt belongs: %w", c.Nats.Type, ErrUntrusted)
	}
	r := c.Nats.Body
	r.ID, r.At, r.Signer = c.ID, time.Unix(c.IssuedAt, 0), c.Issuer
	return r, nil
}
