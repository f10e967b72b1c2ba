"""Who is this device? What a client brings and what an answer must be (`identity`), and those who decide."""

from pushd.auth.authenticators import Authenticator as Authenticator
from pushd.auth.authenticators import CheckedAuthenticator as CheckedAuthenticator
from pushd.auth.authenticators import HmacAuthenticator as HmacAuthenticator
from pushd.auth.authenticators import OpenAuthenticator as OpenAuthenticator
from pushd.auth.authenticators import StaticAuthenticator as StaticAuthenticator
from pushd.auth.authenticators import make_token as make_token
from pushd.auth.authenticators import open_authenticator as open_authenticator
from pushd.auth.identity import Credentials as Credentials
from pushd.auth.identity import credentials as credentials
from pushd.auth.identity import credentials_from_auth as credentials_from_auth
from pushd.auth.identity import merge_credentials as merge_credentials
