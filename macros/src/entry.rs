//! The expansion: the function's body in an `async fn` of the same signature, and a synchronous one around it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Error, ItemFn, Result, parse2};

use crate::args::Args;

/// Which of the two macros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Main,
    Test,
}

/// What the attribute expands to. On a wrong use: the error, and the function as it was, so that nothing else is reported.
pub(crate) fn expand(kind: Kind, args: TokenStream, item: TokenStream) -> TokenStream {
    match try_expand(kind, args, item.clone()) {
        Ok(tokens) => tokens,
        Err(error) => {
            let error = error.into_compile_error();
            match parse2::<ItemFn>(item) {
                // Without its `async`, so that rustc has no complaint of its own about `main`.
                Ok(mut function) => {
                    let body = quote!({ ::core::unreachable!() });
                    function.sig.asyncness = None;
                    function.sig.inputs.clear();
                    function.sig.generics = syn::Generics::default();
                    function.block = match parse2(body) {
                        Ok(block) => block,
                        Err(error) => return error.into_compile_error(),
                    };
                    let function = function.into_token_stream();
                    quote!(#error #[allow(unused)] #function)
                }
                Err(_) => error,
            }
        }
    }
}

fn try_expand(kind: Kind, args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = parse2(item)?;
    let args: Args = parse2(args)?;
    check(kind, &function)?;

    let ItemFn { attrs, vis, sig, block } = &function;
    let (name, output) = (&sig.ident, &sig.output);
    let krate = &args.krate;
    let config = args.config();
    let entry = match kind {
        Kind::Main => {
            let paused = args.paused.as_ref().is_some_and(|paused| paused.value);
            quote!(#krate::__private::main(#config, #paused, #name))
        }
        Kind::Test => {
            let paused = args.paused.as_ref().is_none_or(|paused| paused.value);
            let config = if args.gives("seed") { config } else { quote!(#config.seed(1)) };
            quote!(#krate::__private::test(#config, #paused, #name()))
        }
    };
    // What `main` answers is told by the runtime, since it may have run on several cores.
    let outer = match kind {
        Kind::Main => quote!(-> ::std::process::ExitCode),
        Kind::Test => quote!(#output),
    };
    let test = (kind == Kind::Test).then(|| quote!(#[::core::prelude::v1::test]));
    Ok(quote! {
        #test
        #(#attrs)*
        #vis fn #name() #outer {
            async fn #name() #output #block
            #entry
        }
    })
}

fn check(kind: Kind, function: &ItemFn) -> Result<()> {
    let sig = &function.sig;
    if sig.asyncness.is_none() {
        return Err(Error::new_spanned(sig.fn_token, "the function must be `async`"));
    }
    if !sig.inputs.is_empty() {
        return Err(Error::new_spanned(&sig.inputs, "the function takes no arguments"));
    }
    if !sig.generics.params.is_empty() {
        return Err(Error::new_spanned(&sig.generics, "the function has no generic parameters"));
    }
    if kind == Kind::Main && sig.ident != "main" {
        let message = "`#[demi::main]` is for `main`: build a `demi::Runtime` to run a future elsewhere";
        return Err(Error::new_spanned(&sig.ident, message));
    }
    let twice = function.attrs.iter().find(|attr| attr.path().is_ident("test"));
    if kind == Kind::Test
        && let Some(attr) = twice
    {
        return Err(Error::new_spanned(attr, "`#[demi::test]` makes this a test already: remove `#[test]`"));
    }
    Ok(())
}
