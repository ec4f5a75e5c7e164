package platform

import "github.com/herald-nats/herald/pkg/platform/manifest"

// Names of Herald's own accounts, as pkg/platform/manifest describes them.
const (
	System  = manifest.System
	Ledger  = manifest.Ledger
	Readers = manifest.Readers
	Auth    = manifest.Auth
	Guest   = manifest.Guest
	Admin   = manifest.Admin
	Door    = manifest.Door
	ChatIn  = manifest.ChatIn
)

// Names of their roles.
const (
	RoleRegistrar = manifest.RoleRegistrar
	RoleHome      = manifest.RoleHome
	RoleReader    = manifest.RoleReader
	RoleSetup     = manifest.RoleSetup
	RoleMover     = manifest.RoleMover
	RoleIssuer    = manifest.RoleIssuer
	RoleGuest     = manifest.RoleGuest
	RoleAdmin     = manifest.RoleAdmin
	RoleMember    = manifest.RoleMember
	RoleSentinel  = manifest.RoleSentinel
)

// FileName is the platform file's name in a platform folder, and MinNodes the fewest
// nodes of a region.
const (
	FileName = manifest.FileName
	MinNodes = manifest.MinNodes
)
