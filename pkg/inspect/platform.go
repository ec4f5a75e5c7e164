package inspect

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/herald-nats/herald/pkg/ledger"
	"github.com/herald-nats/herald/pkg/permission"
	"github.com/herald-nats/herald/pkg/trust"
)

// Platform is what is known of a platform: what a file is held against. The zero value
// knows nothing.
type Platform struct {
	// Operator is the root; nil: there is no platform at hand.
	Operator *trust.Operator
	// Document is the public part of its platform document; it may be nil.
	Document *trust.Platform
	// Is says what a public key is on the platform, such as "role CHAT/member", or nothing.
	// It may be nil; the operator and the document are asked besides.
	Is func(public string) string
	// Account gives the claims in force, verified, of the account with a key, or nil. It
	// may be nil.
	Account func(public string) *jwt.AccountClaims
}

// is says what a key is.
func (p Platform) is(public string) string {
	if public == "" {
		return ""
	}
	if p.Is != nil {
		if s := p.Is(public); s != "" {
			return s
		}
	}
	if p.Operator != nil {
		switch {
		case public == p.Operator.Key():
			return "the operator"
		case p.Operator.Signs(public):
			return "an operator signing key"
		}
	}
	if p.Document != nil {
		for _, r := range p.Document.Regions {
			if r.SealKey.String() == public {
				return "region key of " + r.Name.String()
			}
		}
		for _, a := range p.Document.Accounts {
			if a.Key.String() == public {
				return "account " + a.Name.String()
			}
			for _, r := range a.Roles {
				if r.Has(public) {
					return "role " + a.Name.String() + "/" + r.Name.String()
				}
			}
		}
	}
	if p.Operator != nil && public == p.Operator.System().String() {
		return "the system account"
	}
	return ""
}

func (p Platform) account(public string) *jwt.AccountClaims {
	if p.Account == nil || public == "" {
		return nil
	}
	return p.Account(public)
}

// named tells whether the document has an account with a key, and a role with another.
func (p Platform) named(account, role string) (known, has bool) {
	if p.Document == nil {
		return false, false
	}
	for _, a := range p.Document.Accounts {
		if a.Key.String() == account {
			return true, slices.ContainsFunc(a.Roles, func(r trust.Role) bool { return r.Has(role) })
		}
	}
	return false, false
}

// chain says where the chain of signatures ends.
func (e *explainer) chain(t *Token, d decoded) {
	op := e.known.Operator
	end := func(c Chain, says string) { t.Chain, t.ChainSays = c, Clean(says) }
	switch {
	case !t.Verifies:
		end(ChainForeign, "it ends here: the signature does not verify")
	case op == nil:
		end(ChainUnknown, "there is no platform at hand to hold it against")
	case t.Kind == KindOperator:
		e.operatorChain(d, end)
	case t.Kind == KindAccount:
		_, err := op.VerifyAccount(d.text)
		e.byOperator(t, err, end, "")
	case t.Kind == KindUser:
		e.userChain(t, d, end)
	case t.Kind == KindActivation, t.Kind == KindResponse:
		e.accountSigned(d, end)
	case t.Kind == KindPlatform:
		_, err := op.OpenPlatform(d.text)
		e.byOperator(t, err, end, ", its epoch by the operator key")
	case t.Kind == KindEntry:
		e.entryChain(t, d, end)
	case t.Kind == KindEpoch:
		if d.payload.Issuer == op.Key() && d.payload.Subject == op.Key() {
			end(ChainTrusted, "signed by the operator key itself")
			return
		}
		end(ChainForeign, "not signed by the operator at hand")
	case op.Signs(d.payload.Issuer), d.payload.Issuer == op.Key():
		end(ChainTrusted, "signed by "+e.known.is(d.payload.Issuer))
	case t.IssuerIs != "":
		end(ChainForeign, "signed by "+t.IssuerIs+", and not by an operator key")
	default:
		end(ChainForeign, "the issuer is no key of the platform at hand")
	}
}

func (e *explainer) operatorChain(d decoded, end func(Chain, string)) {
	op := e.known.Operator
	switch {
	case d.payload.Subject != op.Key():
		end(ChainForeign, "it is another operator than the one at hand, "+op.Key())
	case d.payload.Issuer != op.Key():
		end(ChainForeign, "it is about the operator at hand, and somebody else signed it")
	case d.text != op.Token():
		end(ChainTrusted, "it is the operator at hand, in another version of its JWT")
	default:
		end(ChainTrusted, "it is the operator at hand")
	}
}

// userChain looks for the account, and for the key of it that signed.
func (e *explainer) userChain(t *Token, d decoded, end func(Chain, string)) {
	account, issuer := d.nats.IssuerAccount, d.payload.Issuer
	if account == "" {
		account = issuer // signed by the account's identity key
	}
	c := e.known.account(account)
	if c == nil {
		switch known, has := e.known.named(account, issuer); {
		case has:
			end(ChainTrusted, "signed by a role key of an account of the operator's")
		case known:
			end(ChainForeign, "the issuer is no role key of that account")
		case e.known.Account != nil:
			end(ChainForeign, "the account is none of this platform's")
		default:
			end(ChainUnknown, "the account is not among those that are public here; look in the platform folder")
		}
		return
	}
	scope, signs := c.SigningKeys[issuer]
	switch {
	case issuer == c.Subject:
		end(ChainTrusted, "signed by the account's own key, not by a role's")
	case !signs:
		end(ChainForeign, "the issuer is no key of account "+c.Name+": every server refuses the user")
		return
	case scope == nil:
		end(ChainTrusted, "signed by a signing key of account "+c.Name+" without a role")
	default:
		end(ChainTrusted, "signed by a role key of account "+c.Name+", which an operator signing key signed")
	}
	if revoked(c, d.payload) {
		t.State = StateRevoked
	}
	u, ok := scope.(*jwt.UserScope)
	if !ok || u == nil {
		return
	}
	e.rights(t, d, c, u)
}

// revoked tells whether an account's JWT revokes a user's: all that was issued up to a
// moment, that second included.
func revoked(c *jwt.AccountClaims, p payload) bool {
	for _, key := range []string{p.Subject, jwt.All} {
		if at, ok := c.Revocations[key]; ok && at >= p.IssuedAt {
			return true
		}
	}
	return false
}

// rights fills a role's template in for the user.
func (e *explainer) rights(t *Token, d decoded, c *jwt.AccountClaims, scope *jwt.UserScope) {
	var u jwt.UserClaims
	if err := json.Unmarshal(d.json, &u); err != nil || !u.HasEmptyPermissions() {
		e.problem("the JWT brings permissions or limits of its own, and its role allows none: every server refuses the user")
		return
	}
	account, err := permission.AccountOf(c, c.Subject == e.known.Operator.System().String())
	if err != nil {
		return
	}
	// Cleaned, because what is said of them quotes them, cut to a length.
	who := permission.User{Name: Clean(u.Name), Account: account}
	for _, tag := range u.Tags {
		who.Tags = append(who.Tags, Clean(tag))
	}
	// A key that is none stays zero: the template may not ask for it.
	_ = who.Key.UnmarshalText([]byte(u.Subject))
	rights, err := permission.For(scope.Template, who)
	if err != nil {
		e.problem("%v", err)
		return
	}
	for _, r := range rights.Rules() {
		t.Rights = append(t.Rights, Clean(string(r.Effect)+" "+string(r.Direction)+" "+r.Expanded()))
	}
	if p, ok := rights.Replies(); ok {
		t.Rights = append(t.Rights, Clean(responses(&p)))
	}
	for _, i := range rights.Ignored() {
		t.Ignored = append(t.Ignored, Clean(i.Rule.String()+": "+i.Why))
	}
}

// accountSigned is for what an account signs about itself.
func (e *explainer) accountSigned(d decoded, end func(Chain, string)) {
	issuer, account := d.payload.Issuer, d.nats.IssuerAccount
	if account == "" {
		account = issuer // signed by the account's identity key
	}
	known, signs := e.known.named(account, issuer)
	signs = signs || known && account == issuer
	if c := e.known.account(account); c != nil {
		_, signs = c.SigningKeys[issuer]
		known, signs = true, signs || c.Subject == issuer
	}
	switch {
	case signs:
		end(ChainTrusted, "signed by a key of an account of the operator's")
	case known, e.known.Account != nil:
		end(ChainForeign, "the issuer is no key of an account of this platform")
	default:
		end(ChainUnknown, "the account is not among those that are public here; look in the platform folder")
	}
}

// entryChain opens an entry as every reader of the ledger does.
func (e *explainer) entryChain(t *Token, d decoded, end func(Chain, string)) {
	opener := ledger.Opener{Operator: e.known.Operator, Now: func() time.Time { return e.now }}
	_, err := opener.Open(d.payload.Subject, d.text)
	e.byOperator(t, err, end, "")
}

// byOperator ends the chain of what an operator signing key has to sign; err is what
// readers say of it. Its text is not shown: it quotes what it refuses, cut to a length at
// which a secret is not known for one.
func (e *explainer) byOperator(t *Token, err error, end func(Chain, string), more string) {
	switch {
	case err == nil:
		end(ChainTrusted, "signed by an operator signing key"+more)
	case !e.known.Operator.Signs(t.Issuer):
		end(ChainForeign, "the issuer is no operator signing key of the platform at hand")
	case errors.Is(err, ledger.ErrAhead):
		end(ChainForeign, "it is dated further ahead than clocks may differ: no reader believes it")
	default:
		end(ChainForeign, "an operator signing key signed it, and it is not what its kind has to be: no reader takes it")
	}
}
