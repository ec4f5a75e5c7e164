package authn

import (
	"context"

	"github.com/herald-nats/herald/pkg/ident"
	"github.com/herald-nats/herald/pkg/invite"
	"github.com/herald-nats/herald/pkg/wire"
)

// Invites believes whoever brings the code of an invitation that is not used up, and from
// then on the user key that it came with.
type Invites struct {
	// Redeem uses an invitation for who asks, if they have not used it before, and gives
	// what it is for. Its errors are those of Identify.
	Redeem func(ctx context.Context, id ident.InviteID, e Evidence) (Granted, error)
	// Redeemed gives what the invitations are for that a user has used.
	Redeemed func(ident.UserKey) []Granted
}

var _ Renewer = Invites{}

// Type implements Method.
func (Invites) Type() string { return wire.ProofInvite }

// Kind implements Renewer.
func (Invites) Kind() string { return ident.KindInvite }

// Identify implements Method.
func (m Invites) Identify(ctx context.Context, e Evidence) (Who, error) {
	if e.Request.Identity.Type != wire.ProofInvite || e.Request.Identity.Code == "" {
		return Who{}, refused(wire.Errorf(wire.BadIdentity, "send a proof of type invite with a code", "the request brings no invitation"), "no invitation")
	}
	// A letter that was misheard is told at once: home is not asked, and no limit of it is
	// spent.
	code, err := Code(e.Request)
	if err != nil {
		return Who{}, err
	}
	g, err := m.Redeem(ctx, code.ID(), e)
	if err != nil {
		return Who{}, err
	}
	return Who{Identity: ident.InviteIdentity(e.Request.UserKey), Granted: []Granted{g}}, nil
}

// Again implements Renewer: who was let in keeps what they have, also once the invitation
// is over or revoked.
func (m Invites) Again(_ context.Context, r Renewal) (Who, error) {
	all := m.Redeemed(r.User)
	if len(all) == 0 || r.Identity != ident.InviteIdentity(r.User) {
		// This region may not have heard of it yet; whoever holds the credential asks again.
		e := wire.Errorf(wire.Unavailable, "ask again in a moment", "your invitation is not known here yet")
		e.RetryAfterMS = 2000
		return Who{}, refused(e, "no invitation of %s is known", r.User)
	}
	return Who{Identity: r.Identity, Granted: granted(all)}, nil
}

// Code is the code of an invitation that a request brings, as its holder wrote it. The error
// wraps a *wire.Error, and quotes nothing of it.
func Code(r wire.Request) (invite.Code, error) {
	code, err := invite.Parse(r.Identity.Code)
	if err != nil {
		return code, refused(wire.Errorf(wire.BadIdentity, "read the code again, or ask whoever invited you to", "%s", err), "no code")
	}
	return code, nil
}
