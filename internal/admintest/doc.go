// Package admintest shows what administrators can do, on a platform of three regions that runs:
// whoever they deny is out on every server, also on those that were away.
package admintest
