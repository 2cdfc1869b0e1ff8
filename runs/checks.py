"""Django system checks of the site."""
