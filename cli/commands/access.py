"""Coming in, and what one may do then."""

from __future__ import annotations

import sys

from cyclopts import App

from cli import me
from cli.client import Client
from cli.credentials import forget
from cli.flags import Flag, Json
from cli.problems import UsageProblem
from cli.render import print_json, stderr
from cli.settings import load

commands = App()


@commands.command(name="token")
def make_token(audience: str, /, *, json: Json = False) -> None:
    """Make a short-lived token for calling one service directly over gRPC.

    Parameters
    ----------
    audience
        contacts, activities, sales or marketing.
    """
    with Client(load()) as client:
        made = client.post("/v1/tokens", {"audience": audience})
    if json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['token']}\n")
        if access := made.get("access"):
            stderr.print("beside it goes the metadata rapport-access-bin, in base64 here:", access, markup=False)


@commands.command(name="whoami")
def show_me(*, json: Json = False) -> None:
    """Show who you are to Rapport, and what you may do and see."""
    with Client(load()) as client:
        me.show(client, json)


@commands.command(name="login")
def sign_in(
    *,
    url: str,
    issuer: str = "",
    client_id: str = "",
    scope: str = "",
    id_token: Flag = False,
    api_key: Flag = False,
) -> None:
    """Sign in, and stay signed in for later commands: in the browser, or with an API key.

    Parameters
    ----------
    url
        The platform, such as https://crm.example.
    issuer
        The identity provider that your administrator named to Rapport.
    client_id
        What the provider calls this command line; it must allow redirects to http://127.0.0.1.
    scope
        What to ask of the provider; 'openid profile email offline_access' where left out.
    id_token
        Send the provider's ID token, for a provider whose access tokens are not for Rapport.
    api_key
        Read an API key, from the terminal or from standard input.
    """
    from cli import login

    url = url.rstrip("/")
    if api_key == bool(issuer or client_id):
        raise UsageProblem("give either --issuer and --client-id, or --api-key")
    if api_key:
        login.with_key(url, login.read_key())
    elif not (issuer and client_id):
        raise UsageProblem("--issuer and --client-id belong together")
    else:
        login.with_browser(url, issuer, client_id, scope or login.SCOPE, id_token=id_token)


@commands.command(name="logout")
def sign_out() -> None:
    """Forget the login."""
    stderr.print("signed out" if forget() else "nobody was signed in")
