package client

import (
	"context"

	"github.com/herald-nats/herald/pkg/accesskey"
	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/wire"
)

// Identity shows who asks for a credential. It is asked for each try, so that what ends
// soon can be made anew.
type Identity interface {
	// Prove gives the proof, and the key that signs the request besides the user's; nil: none
	// does.
	Prove(ctx context.Context) (wire.Proof, wire.Signer, error)
}

// Open proves nothing but to hold the user key.
type Open struct{}

// Prove implements Identity.
func (Open) Prove(context.Context) (wire.Proof, wire.Signer, error) {
	return wire.Proof{Type: wire.ProofOpen}, nil, nil
}

// Invited comes with the code of an invitation. It counts for the user key that it first
// came with: the same key may come with it again.
type Invited struct{ Code invite.Code }

// Prove implements Identity.
func (i Invited) Prove(context.Context) (wire.Proof, wire.Signer, error) {
	return wire.Proof{Type: wire.ProofInvite, Code: i.Code.Reveal()}, nil, nil
}

// AccessKey comes with an access key, whose secret signs requests and is never sent.
type AccessKey struct {
	ID     ident.KeyID
	Secret accesskey.Secret
}

// Prove implements Identity.
func (k AccessKey) Prove(context.Context) (wire.Proof, wire.Signer, error) {
	key, err := k.Secret.Key()
	if err != nil {
		return wire.Proof{}, nil, err
	}
	return wire.Proof{Type: wire.ProofKey, KeyID: k.ID}, key, nil
}

// Token comes with a token of an OpenID provider. It is called for each try: a provider's
// tokens end.
type Token func(ctx context.Context) (string, error)

// Prove implements Identity.
func (t Token) Prove(ctx context.Context) (wire.Proof, wire.Signer, error) {
	token, err := t(ctx)
	return wire.Proof{Type: wire.ProofOIDC, Token: token}, nil, err
}
