"""What is refused, and pages that say that something is not possible."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "errors_title": ("Il y a un problème", "There is a problem"),
    "errors_title_many": ("Il y a {count} problèmes", "There are {count} problems"),
    "error_self": (
        "Une ligne ne peut pas se renvoyer à elle-même.",
        "A line cannot be forwarded to itself.",
    ),
    "error_premium": (
        "Les numéros surtaxés ne sont pas possibles.",
        "Calls cannot be forwarded to premium-rate numbers.",
    ),
    "error_emergency": (
        "Les numéros d’urgence ne sont pas possibles.",
        "Calls cannot be forwarded to emergency numbers.",
    ),
    "error_short": (
        "Les numéros courts ne sont pas possibles.",
        "Calls cannot be forwarded to short numbers.",
    ),
    "error_shared_cost": (
        "Les numéros à coût partagé ne sont pas possibles.",
        "Calls cannot be forwarded to shared-cost numbers.",
    ),
    "error_invalid": ("Ce numéro n’est pas attribuable.", "This is not a valid number."),
    "error_country_refused": (
        "Les renvois vers ce pays ne sont pas permis.",
        "Forwarding to this country is not allowed.",
    ),
    "error_fleet_countries": (
        "Les renvois vers ce pays ne sont pas permis à votre parc.",
        "Your fleet may not forward to this country.",
    ),
    "error_not_fleet": (
        "Ce n’est pas une ligne de votre parc.",
        "This is not a line in your fleet.",
    ),
    "error_no_fax": (
        "Cette ligne n’a pas l’offre fax.",
        "This line does not have the fax offer.",
    ),
    "error_extension": (
        "Un numéro ne peut pas avoir de poste.",
        "A number cannot have an extension.",
    ),
    "error_changed_since": (
        "Modifiée depuis : elle reste comme elle est.",
        "Changed since: it stays as it is.",
    ),
    "error_needed": ("Indiquez un numéro.", "Enter a number."),
    "error_service": ("Choisissez un service.", "Choose a service."),
    "error_no_number": (
        "« {value} » n’est ni un numéro ni le nom d’une ligne.",
        "“{value}” is neither a number nor the name of a line.",
    ),
    "error_ambiguous": (
        "Plusieurs lignes s’appellent « {value} » : donnez le numéro. {names}.",
        "Several lines are called “{value}”: enter the number. {names}.",
    ),
    "error_partial": (
        "Aucune ligne ne s’appelle « {value} ». Cherchiez-vous {names} ?",
        "No line is called “{value}”. Did you mean {names}?",
    ),
    "error_too_short": ("Il manque des chiffres à ce numéro.", "This number is missing digits."),
    "error_too_long": ("Ce numéro a trop de chiffres.", "This number has too many digits."),
    "error_country": (
        "L’indicatif du pays n’existe pas.",
        "The country code does not exist.",
    ),
    "error_after": (
        "Indiquez un nombre de secondes entre 5 et 60.",
        "Enter a number of seconds from 5 to 60.",
    ),
    "error_other": ("Refusé : {problem}.", "Refused: {problem}."),
    "error_form": (
        "Ce formulaire est trop ancien ou ne vient pas de cette page. Recommencez.",
        "This form is too old, or was not sent from this page. Please start again.",
    ),
    "error_read_only": (
        "Vous voyez la page comme ce client : rien ne peut être modifié.",
        "You are seeing the page as this customer does: nothing can be changed.",
    ),
    "error_404": ("Cette page n’existe pas", "This page does not exist"),
    "error_404_what": (
        "Ou cette ligne n’est pas de votre parc.",
        "Or this line is not in your fleet.",
    ),
    "error_403": ("Ce n’est pas possible", "This is not possible"),
    "error_409": (
        "Contactez l’assistance pour cette ligne",
        "Please contact support about this line",
    ),
    "error_409_what": (
        "Ses réglages sont illisibles : {detail}",
        "Its settings cannot be read: {detail}",
    ),
    "error_503": ("Service momentanément indisponible", "Temporarily unavailable"),
    "error_503_what": (
        "Rien n’a été modifié. Réessayez dans un instant.",
        "Nothing was changed. Try again in a moment.",
    ),
    "error_500": ("Une erreur s’est produite", "Something went wrong"),
}  # fmt: skip
