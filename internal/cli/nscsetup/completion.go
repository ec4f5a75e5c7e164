package nscsetup

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/cli/reference"
	"github.com/herald-nats/herald/pkg/platform"
)

func newCompletion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what a shell needs to complete command lines",
		Long: `completion prints a script for a shell, with which it completes commands, flags, and the
accounts, roles and regions of the platform folder at hand.

For this session of bash (which needs the package bash-completion), zsh or fish:

  source <(nscsetup completion bash)
  source <(nscsetup completion zsh)
  nscsetup completion fish | source

For every session, write it to where the shell looks:

  nscsetup completion bash > ~/.local/share/bash-completion/completions/nscsetup
  nscsetup completion zsh > "${fpath[1]}/_nscsetup"
  nscsetup completion fish > ~/.config/fish/completions/nscsetup.fish`,
		Example: `  source <(nscsetup completion bash)`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(g.Out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(g.Out)
			case "fish":
				return cmd.Root().GenFishCompletion(g.Out, true)
			}
			return cli.Errorf(cli.Usage, "it is bash, zsh or fish", "there is no completion for %.20q", args[0])
		},
	}
}

// completer completes what stands on a command line. It is quick whatever the platform's
// size, and says nothing when something is wrong: it has nothing to offer then.
type completer struct{ g *globals }

// complete gives all commands of a program completion of their arguments, as their usage
// names them, and of flags that are called the same everywhere. What a command completes
// by itself is left alone.
func complete(root *cobra.Command, g *globals) {
	c := completer{g}
	for _, cmd := range reference.Commands(root) {
		if cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 {
			cmd.ValidArgsFunction = c.argument
		}
		for name, f := range map[string]cobra.CompletionFunc{
			"region": c.regionFlag, "account": c.accountFlag, "user": c.userFlag,
			"services": fixed("all", "none"), "format": fixed("man", "markdown"),
		} {
			if cmd.Name() == "init" || cmd.LocalNonPersistentFlags().Lookup(name) == nil {
				continue // the regions of a new platform are not there yet
			}
			_ = cmd.RegisterFlagCompletionFunc(name, f) // it has one of its own
		}
	}
	_ = root.MarkPersistentFlagDirname("dir") // it is there
}

func fixed(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

func (c completer) dir() platform.Dir { return platform.Dir(c.g.dir) }

// beginning are those that go on from what was begun, and nothing else: no files.
func beginning(begun string, names []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, n := range names {
		if strings.HasPrefix(n, begun) {
			out = append(out, n)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (c completer) regionFlag(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return beginning(begun, c.dir().RegionNames())
}

func (c completer) accountFlag(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return beginning(begun, c.dir().AccountNames())
}

// userFlag offers the static users of the role that was named.
func (c completer) userFlag(_ *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return beginning(begun, c.dir().UserNames(args[0]))
}

// argument completes the next argument, by what the command's usage calls it.
func (c completer) argument(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	words := strings.Fields(cmd.Use)[1:]
	if len(args) >= len(words) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	word := strings.Trim(words[len(args)], "[].")
	switch {
	case word == "REGION":
		names := slices.DeleteFunc(c.dir().RegionNames(), func(r string) bool { return slices.Contains(args, r) })
		return beginning(begun, names)
	case word == "ACCOUNT":
		return beginning(begun, c.dir().AccountNames())
	case word == "ACCOUNT/ROLE":
		return c.role(begun)
	case word == "NAME" && len(args) == 1 && words[0] == "ACCOUNT/ROLE":
		return beginning(begun, c.dir().UserNames(args[0]))
	case word == "DIR":
		return nil, cobra.ShellCompDirectiveFilterDirs
	case strings.HasPrefix(word, "FILE"):
		return nil, cobra.ShellCompDirectiveDefault
	case strings.Contains(word, "|"):
		return beginning(begun, strings.Split(word, "|"))
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// role offers accounts first, and the roles of one once it is there.
func (c completer) role(begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	account, _, named := strings.Cut(begun, "/")
	var names []string
	if !named {
		for _, name := range c.dir().AccountNames() {
			names = append(names, name+"/")
		}
		out, directive := beginning(begun, names)
		return out, directive | cobra.ShellCompDirectiveNoSpace
	}
	for _, name := range c.dir().RoleNames(account) {
		names = append(names, account+"/"+name)
	}
	return beginning(begun, names)
}
